"""The phases of a round, sampled: each called by itself, again and again, on the clock and the processor's time."""

import time
from collections.abc import Callable

from device_runtime.profile.values import PhaseSamples
from device_runtime.wire.errors import LocalWireError

OFFLINE = PhaseSamples(source="absent", note="an offline profile moves no bytes; a round's measurement has this phase")


def sample(call: Callable[[], object], repeats: int) -> PhaseSamples:
    """Call so often, and keep wall and CPU time of each; absent where the numbers can no longer be sent."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter_ns(), time.process_time_ns()
        try:
            call()
        except LocalWireError as error:
            return PhaseSamples(source="absent", note=str(error))
        wall.append(time.perf_counter_ns() - start)
        cpu.append(time.process_time_ns() - busy)
    return PhaseSamples(source="measured", wall_ns=tuple(wall), cpu_ns=tuple(cpu))
