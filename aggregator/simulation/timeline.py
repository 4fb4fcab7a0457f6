"""Simulated time: what is to happen, in order. The clock stands still while something happens, and then jumps."""

import heapq
import itertools
from collections.abc import Callable

SECOND_NS = 1_000_000_000


class Timeline:
    """A clock, and the actions that are due on it. Those due at the same instant happen in the order of asking."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def monotonic_ns(self) -> int:
        """Nanoseconds since the timeline began: it is the `Clock` of the shells on it."""
        return self._now_ns

    def cpu_ns(self) -> int:
        """Nothing that happens here takes any."""
        return 0

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen so much later."""
        heapq.heappush(self._due, (self._now_ns + int(seconds * SECOND_NS), next(self._order), action))

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let things happen until `until` says so; False when so much time has passed first."""
        end_ns = self._now_ns + int(seconds * SECOND_NS)
        while not until():
            if not self._due or self._due[0][0] > end_ns:
                self._now_ns = end_ns
                return False
            self._now_ns, _, action = heapq.heappop(self._due)
            action()
        return True
