"""The method, on a clock that is turned by hand: warm-up, repeats, cool-down, percentiles, spread."""

import pytest

from device_runtime.profile.methodology import (
    Times,
    cool_down,
    distribution,
    is_stable,
    quick_plan,
    repeat,
    spread,
    warm_up,
)
from device_runtime.profile.record import Plan

MS = 1_000_000


class Clock:
    """Nanoseconds that pass only when somebody works or sleeps."""

    def __init__(self):
        self.now = 0
        self.slept = 0.0

    def sleep(self, seconds):
        self.slept += seconds
        self.now += int(seconds * 1e9)

    def works(self, durations_ms):
        """A step that takes the next of these times; the last again and again."""
        left = list(durations_ms)

        def step():
            self.now += int((left.pop(0) if len(left) > 1 else left[0]) * MS)

        return step

    @property
    def times(self):
        return Times(lambda: self.now, self.sleep)


def ignore(_share):
    pass


def test_warm_up_ends_when_steps_are_stable():
    clock = Clock()
    found = warm_up(clock.works([50, 30, 20, *[10] * 30]), Plan(), clock.times, ignore)
    assert found.is_stable
    assert found.steps == 11  # the first at which the medians of two windows of five agree


def test_warm_up_takes_no_fewer_than_its_steps():
    clock = Clock()
    assert warm_up(clock.works([10]), Plan(), clock.times, ignore).steps == 10


def test_slow_steps_need_only_the_seconds():
    clock = Clock()
    found = warm_up(clock.works([2000]), Plan(), clock.times, ignore)
    assert (found.steps, found.is_stable) == (4, True)


def test_a_warm_up_that_never_settles_ends_and_says_so():
    clock = Clock()
    growing = clock.works([1000 * 1.3**i for i in range(40)])
    found = warm_up(growing, Plan(), clock.times, ignore)
    assert not found.is_stable
    assert found.seconds >= 60.0


def test_two_steps_are_not_stable():
    assert not is_stable([10, 10])
    assert is_stable([10, 10, 10, 10])
    assert not is_stable([10, 10, 12, 12])


def test_a_repeat_lasts_its_seconds_and_keeps_every_step():
    clock = Clock()
    found = repeat(clock.works([10]), Plan(seconds=1.0), clock.times, ignore)
    assert found == (10 * MS,) * 100


def test_slow_steps_are_repeated_ten_times_all_the_same():
    clock = Clock()
    assert len(repeat(clock.works([5000]), Plan(seconds=1.0), clock.times, ignore)) == 10


def test_telling_progress_is_not_part_of_a_step():
    clock = Clock()

    def slow_teller(_share):
        clock.now += 500 * MS

    assert set(repeat(clock.works([10]), Plan(seconds=1.0), clock.times, slow_teller)) == {10 * MS}


def test_cool_down_waits_for_the_start_temperature():
    clock = Clock()
    readings = iter([60.0, 57.0, 54.9])
    assert cool_down(lambda: next(readings), 50.0, Plan(), clock.times) == 2.0


def test_cool_down_gives_up():
    clock = Clock()
    assert cool_down(lambda: 80.0, 50.0, Plan(cool_down_seconds_max=30.0), clock.times) == 30.0


@pytest.mark.parametrize(("now", "at_start"), [(None, 50.0), (80.0, None), (54.0, 50.0)])
def test_nothing_to_wait_for(now, at_start):
    clock = Clock()
    assert cool_down(lambda: now, at_start, Plan(), clock.times) == 0.0
    assert clock.slept == 0.0


def test_percentiles_by_nearest_rank():
    found = distribution([*range(1, 101)])
    assert (found.count, found.min, found.p50, found.p90, found.p99, found.mad) == (100, 1, 50, 90, 99, 25)
    assert distribution([7]).p99 == 7


def test_spread_of_repeats():
    assert spread([100, 104, 105]).value == pytest.approx(5 / 104)
    assert spread([100, 104]).source == "absent"


def test_a_quick_plan_says_so_and_has_repeats_enough_for_a_verdict():
    assert quick_plan().is_quick
    assert quick_plan().repeats >= 3
    assert not Plan().is_quick
    assert (Plan().repeats, Plan().seconds, Plan().steps_min) == (5, 10.0, 10)
