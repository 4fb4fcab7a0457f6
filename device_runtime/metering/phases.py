"""Timing the phases of a round: wall time and CPU time of all threads."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from device_runtime.surroundings import Clock
from device_runtime.wire.measurement import NO_PHASE, Phase, measured


@dataclass(slots=True)
class PhaseTimes:
    """The phases timed so far, by name."""

    phases: dict[str, Phase] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time the block as phase `name`."""
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        yield
        wall_ns, cpu_ns = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
        self.phases[name] = Phase(measured(wall_ns), measured(cpu_ns))

    def get(self, name: str) -> Phase:
        """The phase, or absent readings where it was not timed."""
        return self.phases.get(name, NO_PHASE)


class SpanTimer:
    """A phase that begins and ends in different calls, such as a download, by the clock of the shell."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start: tuple[int, int] | None = None
        self.phase = NO_PHASE

    def begin(self) -> None:
        """Start, or start again."""
        self._start = (self._clock.monotonic_ns(), self._clock.cpu_ns())

    def end(self) -> None:
        """Stop; without a start, nothing is known."""
        if self._start is not None:
            wall, cpu = self._start
            clock = self._clock
            self.phase = Phase(measured(clock.monotonic_ns() - wall), measured(clock.cpu_ns() - cpu))
            self._start = None
