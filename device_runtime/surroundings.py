"""What a shell is given from outside: the link it speaks over, the clock it reads, the worker that takes long jobs.

`link.py` gives MQTT, the machine's clock and threads; `aggregator/simulation` gives messages in memory, a clock that
jumps to the next event, and jobs that take simulated time. The shells, `Device` and `Aggregator`, cannot tell.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from device_runtime.wire.limits import INBOX_COUNT_MAX

Post = Callable[[object], None]  # puts an event into a shell's inbox; callable from any thread


# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected and subscribed."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection broke; the link tries again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A payload on a topic."""

    topic: str
    payload: bytes


LinkEvent = LinkUp | LinkDown | Arrived


@dataclass(frozen=True, slots=True)
class Crashed:
    """A job met a bug of ours: the process ends, and its supervisor starts it again from what is on disk."""

    error: BaseException


class Inbox:
    """What waits for a shell's next turns. Any thread puts; the one loop that owns the state takes.

    Beyond `count_max` messages the oldest is dropped, which is safe: every message of the protocol is told again
    after a silence. What is told only once, as the outcome of a job is, is never dropped, and comes first.
    """

    def __init__(self, count_max: int = INBOX_COUNT_MAX) -> None:
        self._told_once: deque[object] = deque()
        self._messages: deque[object] = deque(maxlen=count_max)
        self._ready = threading.Condition()

    def put(self, event: object) -> None:
        """Add an event. Never blocks."""
        with self._ready:
            (self._messages if isinstance(event, Arrived) else self._told_once).append(event)
            self._ready.notify()

    def take(self, timeout_s: float = 0.0) -> object | None:
        """The next event, waited for up to `timeout_s`; None when there is none."""
        with self._ready:
            if not self._ready.wait_for(lambda: self._told_once or self._messages, timeout_s):
                return None
            return (self._told_once or self._messages).popleft()


# --- what is given ------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time that never goes back, and the work done in it."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed instant."""

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU time, of all threads of the process, since some fixed instant."""


class Link(Protocol):
    """One client of a broker. What happens on it is posted to the shell."""

    bytes_published: int
    bytes_received: int

    def connect(self) -> None:
        """Return when the broker accepted and subscribed us. Raises LinkError when it does not."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Hand over one payload. Never blocks; what a broken link loses is asked for again."""

    def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until the last payload published is with the broker, up to a limit."""

    def close(self) -> None:
        """Disconnect in good order, without the last will."""


class Worker(Protocol):
    """Does a job off the loop."""

    def start(self, job: Callable[[], object], post: Post) -> None:
        """Begin the job and return; post what it gives, or Crashed where it raises. A job that is cut short by the end
        of the process is begun again by the next one, so nothing may rest on it but what it gives."""


@dataclass(frozen=True, slots=True)
class Station:
    """Who speaks over a link: the client's name, what it listens to, and what the broker says when it dies."""

    client_id: str
    subscriptions: tuple[str, ...]
    will: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that a shell needs of the world but its disk."""

    open_link: Callable[[Station, Post], Link]
    clock: Clock
    worker: Worker


# --- the machine's own --------------------------------------------------------------------------------------------


class MachineClock:
    """The clock of this machine."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since the machine started."""
        return time.monotonic_ns()

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU time of this process since it started."""
        return time.process_time_ns()


class ThreadWorker:
    """Every job on a thread of its own, which ends with the process."""

    def start(self, job: Callable[[], object], post: Post) -> None:
        """Begin the job and return; post what it gives, or Crashed where it raises."""

        def work() -> None:
            try:
                outcome = job()
            except BaseException as error:  # noqa: BLE001  # the loop raises it
                outcome = Crashed(error)
            post(outcome)

        threading.Thread(target=work, daemon=True).start()
