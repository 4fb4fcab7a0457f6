"""Rates by capability: lines and targets computed by hand, who is pruned further and who is not, and refusals."""

import pytest

from aggregator.core.rates import (
    SAVING_SHARE_MIN,
    Known,
    Point,
    RatesRule,
    RoundCost,
    RoundTime,
    capability_sparsities,
    contribution_sparsities,
    fit,
    quantile,
)
from device_runtime.wire.errors import UsageError

CAPABILITY = RatesRule(policy="capability", sparsity_max=0.95, quantile=0.5)
RUN = 0.8


def line(base_s: float, slope_s: float, *sparsities: float) -> tuple[Point, ...]:
    """Points that lie on a line."""
    return tuple(Point(a, base_s + slope_s * (1 - a)) for a in sparsities)


def profiled(base_s: float, slope_s: float) -> Known:
    return Known(profiled=line(base_s, slope_s, 0.0, 0.5, 0.9))


def test_the_line_through_three_points_by_hand():
    # x = 1, 0.5, 0; y = 7, 5, 2: means 0.5 and 14/3, s = (0.5*7/3 + 0.5*8/3) / 0.5 = 5, b = 14/3 - 2.5 = 13/6.
    cost = fit(Known(profiled=(Point(0.0, 7.0), Point(0.5, 5.0), Point(1.0 - 1e-12, 2.0))))
    assert cost is not None
    assert (cost.base_s, cost.slope_s) == pytest.approx((13 / 6, 5.0))
    assert cost.at(0.5) == pytest.approx(14 / 3)


def test_a_round_sets_the_level_and_the_profile_the_slope():
    # The profile: s = 10. The round at 0.8 took 6 s where steps alone would take 1 + 2 = 3: b = 6 - 10 * 0.2 = 4.
    cost = fit(Known(profiled=line(1.0, 10.0, 0.0, 0.5, 0.9), observed=(RoundTime(0.8, 6.0, 0.0),)))
    assert cost is not None
    assert (cost.base_s, cost.slope_s) == pytest.approx((4.0, 10.0))


def test_profile_and_rounds_share_the_slope_by_their_spread():
    # Profile x 1 and 0, slope 10, spread 0.5; rounds x 0.2 and 0.1, slope 50, spread 0.005:
    # s = (10*0.5 + 50*0.005) / 0.505; level 7.5 at x 0.15.
    rounds = (RoundTime(0.8, 10.0, 0.0), RoundTime(0.9, 5.0, 0.0))
    cost = fit(Known(profiled=(Point(0.0, 11.0), Point(1.0 - 1e-15, 1.0)), observed=rounds))
    assert cost is not None
    assert cost.slope_s == pytest.approx(5.25 / 0.505)
    assert cost.at(0.85) == pytest.approx(7.5)


def test_training_at_one_sparsity_has_a_level_and_no_slope():
    cost = fit(Known(observed=(RoundTime(0.8, 2.0, 0.0), RoundTime(0.8, 4.0, 0.0))))
    assert cost == RoundCost(3.0, 0.0)
    assert fit(Known()) is None


def test_transfers_at_one_sparsity_are_taken_to_be_in_proportion_to_what_is_kept():
    # 3 s of transfers for a density of 0.2: 15 s for all; training 2 s whatever is kept.
    cost = fit(Known(observed=(RoundTime(0.8, 2.0, 3.0), RoundTime(0.8, 2.0, 3.0))))
    assert cost is not None
    assert (cost.base_s, cost.slope_s) == pytest.approx((2.0, 15.0))


def test_transfers_at_two_sparsities_correct_that():
    # 3 s at density 0.2, 2.5 s at 0.1: 5 s for all of it, and 2 s whatever is kept; training adds 2 s.
    cost = fit(Known(observed=(RoundTime(0.8, 2.0, 3.0), RoundTime(0.9, 2.0, 2.5))))
    assert cost is not None
    assert (cost.base_s, cost.slope_s) == pytest.approx((4.0, 5.0))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.75, 4.5), (1.0, 9.0)])
def test_a_quantile_lies_between_its_neighbours(share, value):
    assert quantile([9.0, 3.0, 1.0, 2.0], share) == value


def test_a_slow_device_gets_the_sparsity_at_which_it_takes_the_target_time():
    # T(0.8): fast 1 + 10*0.2 = 3, middle 3.5, slow 2 + 25*0.2 = 7. The median is 3.5; slow: 1 - (3.5 - 2)/25 = 0.94.
    known = {"fast": profiled(1, 10), "middle": profiled(1.5, 10), "slow": profiled(2, 25)}
    assert capability_sparsities(CAPABILITY, RUN, known) == {"fast": 0.8, "middle": 0.8, "slow": 0.94}


def test_the_target_of_two_lies_between_them():
    # T(0.8): 2 and 6, the target 4; slow: 1 - (4 - 2) / 20 = 0.9.
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    assert capability_sparsities(CAPABILITY, RUN, known) == {"fast": 0.8, "slow": 0.9}


def test_the_quantile_moves_the_target():
    # The slowest is the target: nobody is slower. The fastest (2 s) is: slow 1 - (2 - 2)/20 = 1, clipped to 0.95.
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    for share, slow in ((1.0, 0.8), (0.0, 0.95)):
        rule = RatesRule(policy="capability", quantile=share)
        assert capability_sparsities(rule, RUN, known) == {"fast": 0.8, "slow": slow}


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
    assert capability_sparsities(CAPABILITY, RUN, {"fast": profiled(1, 5), "slow": slow}) == {"fast": RUN, "slow": RUN}


def test_a_device_on_a_slow_link_is_pruned_further_without_a_profile():
    # fast: 1 s; slow: 1 s and 4 s of transfers at density 0.2, T = 1 + 20 x. The target is 3: 1 - (3 - 1)/20 = 0.9.
    known = {"fast": Known(observed=(RoundTime(0.8, 1.0, 0.0),)), "slow": Known(observed=(RoundTime(0.8, 1.0, 4.0),))}
    assert capability_sparsities(CAPABILITY, RUN, known) == {"fast": RUN, "slow": 0.9}


def test_a_slope_counts_from_the_least_saving_on():
    for slope, is_pruned in ((0.99, False), (1.01, True)):
        # T(0.8) = 10; saving s * 0.15 against the least, 5 % of 10: s = 10/3.
        s = slope * SAVING_SHARE_MIN * 10 / 0.15
        known = {"fast": profiled(1, 5), "slow": profiled(10 - 0.2 * s, s)}
        assert (capability_sparsities(CAPABILITY, RUN, known)["slow"] > RUN) == is_pruned


def test_a_device_of_which_nothing_is_known_stays_and_does_not_count_for_the_target():
    known = {"fast": profiled(1, 5), "new": Known(), "slow": profiled(2, 20)}
    assert capability_sparsities(CAPABILITY, RUN, known) == {"fast": RUN, "new": RUN, "slow": 0.9}
    assert capability_sparsities(CAPABILITY, RUN, {"new": Known()}) == {"new": RUN}
    assert capability_sparsities(CAPABILITY, RUN, {"alone": profiled(2, 20)}) == {"alone": RUN}


CONTRIBUTION = RatesRule(policy="contribution", kappa=0.2)


def test_the_lower_a_weight_lies_under_the_mean_the_sparser_its_device():
    # The mean is 0.25, the furthest from it 0.2: 0.6 + 0.2 * (0.25 - r) / 0.2; above the mean the run's sparsity.
    weights = {"a": 0.45, "b": 0.25, "c": 0.20, "d": 0.10}
    chosen = contribution_sparsities(CONTRIBUTION, 0.6, weights, weights)
    assert chosen == {"a": 0.6, "b": 0.6, "c": 0.65, "d": 0.75}


def test_rates_by_contribution_are_clipped_and_a_new_member_gets_the_runs():
    rule = RatesRule(policy="contribution", kappa=1.0, sparsity_max=0.9)
    weights = {"a": 0.6, "b": 0.2, "gone": 0.2}
    assert contribution_sparsities(rule, 0.6, weights, ["a", "b", "new"]) == {"a": 0.6, "b": 0.9, "new": 0.6}


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 1 / 3, "b": 1 / 3 + 1e-16}], ids=str)
def test_without_a_difference_in_weight_everyone_gets_the_runs_sparsity(weights):
    assert contribution_sparsities(CONTRIBUTION, 0.6, weights, ["a", "b"]) == {"a": 0.6, "b": 0.6}


def test_steps_of_the_grid_do_not_leave_the_bounds():
    rule = RatesRule(policy="capability", sparsity_max=0.944, quantile=0.0)
    known = {"fast": profiled(1, 5), "slow": profiled(2, 20)}
    assert capability_sparsities(rule, 0.8049, known) == {"fast": 0.8049, "slow": 0.944}
    # T(0.8049) = 5.902 against 5.9: wanted is 0.805, on the grid 0.8 or 0.81, and never below the run's.
    close = {"fast": profiled(5.9, 0.0), "slow": profiled(2, 20)}
    assert capability_sparsities(rule, 0.8049, close)["slow"] in (0.8049, 0.81)


@pytest.mark.parametrize(
    "wrong",
    [{"policy": "psychic"}, *({n: v} for n in ("sparsity_max", "quantile", "kappa") for v in (-0.1, 1.1))],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)) if "policy" not in wrong else "rates policy"):
        RatesRule(**wrong)
