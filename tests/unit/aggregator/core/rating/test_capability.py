"""Rates by capability: targets computed by hand, who is pruned further and who is not, and refusals."""

import pytest

from aggregator.core.rating import Capability
from aggregator.core.rating.capability import SAVING_SHARE_MIN, quantile_of
from aggregator.core.rating.round_cost import Known, Point, RoundTime
from device_runtime.wire.errors import UsageError

CAPABILITY = Capability(sparsity_max=0.95, quantile=0.5)
RUN = 0.8


def line(base_s: float, slope_s: float, *sparsities: float) -> tuple[Point, ...]:
    """Points that lie on a line."""
    return tuple(Point(a, base_s + slope_s * (1 - a)) for a in sparsities)


def profiled(base_s: float, slope_s: float) -> Known:
    return Known(profiled=line(base_s, slope_s, 0.0, 0.5, 0.9))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.75, 4.5), (1.0, 9.0)])
def test_a_quantile_lies_between_its_neighbours(share, value):
    assert quantile_of([9.0, 3.0, 1.0, 2.0], share) == value


def test_a_slow_device_gets_the_sparsity_at_which_it_takes_the_target_time():
    # T(0.8): fast 1 + 10*0.2 = 3, middle 3.5, slow 2 + 25*0.2 = 7. The median is 3.5; slow: 1 - (3.5 - 2)/25 = 0.94.
    known = {"fast": profiled(1, 10), "middle": profiled(1.5, 10), "slow": profiled(2, 25)}
    assert CAPABILITY.sparsities(RUN, known, {}) == {"fast": 0.8, "middle": 0.8, "slow": 0.94}


def test_the_target_of_two_lies_between_them():
    # T(0.8): 2 and 6, the target 4; slow: 1 - (4 - 2) / 20 = 0.9.
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    assert CAPABILITY.sparsities(RUN, known, {}) == {"fast": 0.8, "slow": 0.9}


def test_the_quantile_moves_the_target():
    # The slowest is the target: nobody is slower. The fastest (2 s) is: slow 1 - (2 - 2)/20 = 1, clipped to 0.95.
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    for share, slow in ((1.0, 0.8), (0.0, 0.95)):
        rule = Capability(quantile=share)
        assert rule.sparsities(RUN, known, {}) == {"fast": 0.8, "slow": slow}


@pytest.mark.parametrize(
    "slow",
    [
        Known(observed=(RoundTime(0.8, 60.0, 0.0),)),
        # Transfers of 2 s that would fall in proportion: 1.5 s of 62 are noise.
        Known(observed=(RoundTime(0.8, 60.0, 2.0),)),
        # A link that waits, whatever it carries: known from two sparsities.
        Known(observed=(RoundTime(0.8, 1.0, 60.0), RoundTime(0.9, 1.0, 60.0))),
        Known(profiled=line(60.0, 0.0, 0.0, 0.9)),
        Known(profiled=line(70.0, -5.0, 0.0, 0.9)),
        # The most that pruning from 0.8 to 0.95 can save is 0.15 s: of a round of 60 s that is noise.
        Known(profiled=line(60.0, 1.0, 0.0, 0.9)),
    ],
    ids=["one sparsity", "short transfers", "long waits", "flat", "falling", "within noise"],
)
def test_without_a_usable_slope_a_slow_device_stays_at_the_runs_sparsity(slow):
    assert CAPABILITY.sparsities(RUN, {"fast": profiled(1, 5), "slow": slow}, {}) == {"fast": RUN, "slow": RUN}


def test_a_device_on_a_slow_link_is_pruned_further_without_a_profile():
    # fast: 1 s; slow: 1 s and 4 s of transfers at density 0.2, T = 1 + 20 x. The target is 3: 1 - (3 - 1)/20 = 0.9.
    known = {"fast": Known(observed=(RoundTime(0.8, 1.0, 0.0),)), "slow": Known(observed=(RoundTime(0.8, 1.0, 4.0),))}
    assert CAPABILITY.sparsities(RUN, known, {}) == {"fast": RUN, "slow": 0.9}


def test_a_slope_counts_from_the_least_saving_on():
    for slope, is_pruned in ((0.99, False), (1.01, True)):
        # T(0.8) = 10; saving s * 0.15 against the least, 5 % of 10: s = 10/3.
        s = slope * SAVING_SHARE_MIN * 10 / 0.15
        known = {"fast": profiled(1, 5), "slow": profiled(10 - 0.2 * s, s)}
        assert (CAPABILITY.sparsities(RUN, known, {})["slow"] > RUN) == is_pruned


def test_a_device_of_which_nothing_is_known_stays_and_does_not_count_for_the_target():
    known = {"fast": profiled(1, 5), "new": Known(), "slow": profiled(2, 20)}
    assert CAPABILITY.sparsities(RUN, known, {}) == {"fast": RUN, "new": RUN, "slow": 0.9}
    assert CAPABILITY.sparsities(RUN, {"new": Known()}, {}) == {"new": RUN}
    assert CAPABILITY.sparsities(RUN, {"alone": profiled(2, 20)}, {}) == {"alone": RUN}


def test_steps_of_the_grid_do_not_leave_the_bounds():
    rule = Capability(sparsity_max=0.944, quantile=0.0)
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    assert rule.sparsities(0.8049, known, {}) == {"fast": 0.8049, "slow": 0.944}
    # T(0.8049) = 5.902 against 5.9: wanted is 0.805, on the grid 0.8 or 0.81, and never below the run's.
    close = {"fast": profiled(5.9, 0.0), "slow": profiled(2, 20)}
    assert rule.sparsities(0.8049, close, {})["slow"] in (0.8049, 0.81)


@pytest.mark.parametrize("wrong", [{n: v} for n in ("sparsity_max", "quantile") for v in (-0.1, 1.1)], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Capability(**wrong)
