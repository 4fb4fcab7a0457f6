"""How times are taken: warm up until stable, repeat for long enough, cool down in between, keep every sample.

After MLPerf Tiny (repeats of at least 10 s and 10 iterations, the median of 5) and sbc-bench (a run is judged by what
the board did meanwhile). Clock, sleep and thermometer are arguments, so the rules are tested without waiting.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_runtime.profile.record import Plan, WarmUp
from device_runtime.profile.values import Distribution, Value, absent, derived
from device_runtime.wire.measurement import percentile

WITHIN = 0.05  # warm-up windows and repeats agree within this
COOL_ENOUGH_C = 5.0  # above the temperature at the start
_WINDOW = 5
REPEATS_MIN = 3

Step = Callable[[], None]
Nanoseconds = Callable[[], int]
ShareDone = Callable[[float], None]  # hears the share done, 0 to 1


@dataclass(frozen=True, slots=True)
class Times:
    """What the rules wait with."""

    clock_ns: Nanoseconds
    sleep: Callable[[float], None]


def quick_plan(soak_minutes: float = 0.0) -> Plan:
    """Three short repeats: enough to see that it works, too short to publish."""
    return Plan(
        repeats=3,
        seconds=1.0,
        warm_up_steps_min=5,
        warm_up_seconds=1.0,
        warm_up_seconds_max=5.0,
        cool_down_seconds_max=10.0,
        idle_seconds=0.5,
        phase_repeats=3,
        soak_minutes=soak_minutes,
        is_quick=True,
    )


def warm_up(step: Step, plan: Plan, times: Times, progress: ShareDone) -> WarmUp:
    """Run steps until their times are stable, for at least so many steps or seconds, and at most the plan's limit."""
    begin, samples = times.clock_ns(), list[int]()
    while True:
        start = times.clock_ns()
        step()
        end = times.clock_ns()
        samples.append(end - start)
        elapsed = (end - begin) / 1e9
        progress(min(1.0, elapsed / plan.warm_up_seconds_max))
        enough = len(samples) >= plan.warm_up_steps_min or elapsed >= plan.warm_up_seconds
        if enough and is_stable(samples):
            return WarmUp(steps=len(samples), seconds=elapsed, is_stable=True)
        if elapsed >= plan.warm_up_seconds_max:
            return WarmUp(steps=len(samples), seconds=elapsed, is_stable=False)


def is_stable(samples: Sequence[int]) -> bool:
    """Whether the medians of the last two windows of steps agree."""
    window = min(_WINDOW, len(samples) // 2)
    if window < 2:
        return False
    last = statistics.median(samples[-window:])
    before = statistics.median(samples[-2 * window : -window])
    return abs(last - before) <= WITHIN * before


def repeat(step: Step, plan: Plan, times: Times, progress: ShareDone) -> tuple[int, ...]:
    """One repeat: the wall time of every step in ns, for at least the plan's seconds and steps."""
    begin, samples = times.clock_ns(), list[int]()
    while True:
        start = times.clock_ns()
        step()
        end = times.clock_ns()
        samples.append(end - start)
        elapsed = (end - begin) / 1e9
        if elapsed >= plan.seconds and len(samples) >= plan.steps_min:
            return tuple(samples)
        if len(samples) % 64 == 1:  # telling costs time, and is not part of a step
            progress(min(1.0, elapsed / plan.seconds))


def cool_down(temperature: Callable[[], float | None], at_start: float | None, plan: Plan, times: Times) -> float:
    """Wait until the board is about as cool as at the start; gives the seconds waited, 0 without a thermometer."""
    begin = times.clock_ns()
    while True:
        now, waited = temperature(), (times.clock_ns() - begin) / 1e9
        if at_start is None or now is None or now <= at_start + COOL_ENOUGH_C or waited >= plan.cool_down_seconds_max:
            return waited
        times.sleep(1.0)


def distribution(samples: Sequence[int]) -> Distribution:
    """Percentiles by nearest rank, least, and median absolute deviation of at least one sample."""
    middle = _rank(samples, 0.50)
    return Distribution(
        count=len(samples),
        min=min(samples),
        p50=middle,
        p90=_rank(samples, 0.90),
        p99=_rank(samples, 0.99),
        mad=_rank([abs(s - middle) for s in samples], 0.50),
    )


def spread(medians: Sequence[float]) -> Value:
    """How far the repeats' medians lie apart: (highest - lowest) / middle; absent of fewer than three.

    >>> spread([100, 102, 104]).value
    0.0392156862745098
    """
    if len(medians) < REPEATS_MIN:
        return absent("1", f"fewer than {REPEATS_MIN} repeats")
    return derived((max(medians) - min(medians)) / statistics.median(medians), "1", "of the repeats' p50")


def _rank(samples: Sequence[int], share: float) -> int:
    found = percentile(samples, share)
    assert found is not None, "there is at least one sample"
    return found
