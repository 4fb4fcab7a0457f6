"""What a round costs a device: lines computed by hand."""

import pytest

from aggregator.core.rating.round_cost import Known, Point, RoundCost, RoundTime, fit


def line(base_s: float, slope_s: float, *sparsities: float) -> tuple[Point, ...]:
    """Points that lie on a line."""
    return tuple(Point(a, base_s + slope_s * (1 - a)) for a in sparsities)


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
