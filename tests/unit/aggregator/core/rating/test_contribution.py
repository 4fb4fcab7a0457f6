"""Rates by contribution, by hand, and rates that are the same for all."""

import pytest

from aggregator.core.rating import RATINGS, ByContribution, Fixed
from aggregator.core.rating.round_cost import NOTHING_KNOWN
from device_runtime.wire.errors import UsageError

CONTRIBUTION = ByContribution(kappa=0.2)


def test_the_lower_a_weight_lies_under_the_mean_the_sparser_its_device():
    # The mean is 0.25, the furthest from it 0.2: 0.6 + 0.2 * (0.25 - r) / 0.2; above the mean the run's sparsity.
    weights = {"a": 0.45, "b": 0.25, "c": 0.20, "d": 0.10}
    chosen = CONTRIBUTION.sparsities(0.6, dict.fromkeys(weights, NOTHING_KNOWN), weights)
    assert chosen == {"a": 0.6, "b": 0.6, "c": 0.65, "d": 0.75}


def test_rates_by_contribution_are_clipped_and_a_new_member_gets_the_runs():
    rule = ByContribution(kappa=1.0, sparsity_max=0.9)
    weights = {"a": 0.6, "b": 0.2, "gone": 0.2}
    assert rule.sparsities(0.6, dict.fromkeys(["a", "b", "new"], NOTHING_KNOWN), weights) == {
        "a": 0.6,
        "b": 0.9,
        "new": 0.6,
    }


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 1 / 3, "b": 1 / 3 + 1e-16}], ids=str)
def test_without_a_difference_in_weight_everyone_gets_the_runs_sparsity(weights):
    assert CONTRIBUTION.sparsities(0.6, dict.fromkeys(["a", "b"], NOTHING_KNOWN), weights) == {"a": 0.6, "b": 0.6}


def test_fixed_rates_are_the_runs_whatever_the_weights():
    known = dict.fromkeys(["a", "b"], NOTHING_KNOWN)
    assert Fixed().sparsities(0.6, known, {"a": 0.9, "b": 0.1}) == {"a": 0.6, "b": 0.6}


@pytest.mark.parametrize("wrong", [{n: v} for n in ("sparsity_max", "kappa") for v in (-0.1, 1.1)], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ByContribution(**wrong)


def test_rates_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="'psychic'; use one of capability, contribution, fixed"):
        RATINGS.read("psychic")
