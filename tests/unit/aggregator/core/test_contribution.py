"""Weights follow scores as the specification says, and the scores rank devices as exact Shapley values do."""

import itertools
import math

import numpy as np
import pytest

from aggregator.core.contribution import (
    ContributionRule,
    ContributionState,
    cosine,
    initial_weights,
    join,
    leave,
    next_weights,
    scores,
    trade_off,
)
from device_runtime.wire.errors import UsageError

RULE = ContributionRule()
FLEET = {"a": 10, "b": 30, "c": 60}


def _exact_shapley(gradients, shares):
    """The dumb twin: mean marginal value over all permutations; value of a coalition = cos(u_S, u_N)."""
    everyone = sum(w * g for w, g in zip(shares, gradients, strict=True))

    def value(members):
        if not members:
            return 0.0
        u = sum(shares[i] * gradients[i] for i in members)
        return float(u @ everyone / (np.linalg.norm(u) * np.linalg.norm(everyone)))

    count = len(gradients)
    totals = np.zeros(count)
    for order in itertools.permutations(range(count)):
        for position, player in enumerate(order):
            totals[player] += value(order[: position + 1]) - value(order[:position])
    return totals / math.factorial(count)


def _ranks(values):
    return np.argsort(np.argsort(values))


def test_psi_ranks_devices_as_exact_shapley_values_do():
    rng = np.random.default_rng(7)
    agreements = []
    for _ in range(12):
        count = int(rng.integers(4, 7))
        signal = rng.normal(size=60)
        gradients = [signal + level * rng.normal(size=60) for level in np.linspace(0.2, 3.0, count)]
        gradients = [g / np.linalg.norm(g) for g in gradients]
        shares = [1 / count] * count
        everyone = sum(w * g for w, g in zip(shares, gradients, strict=True))
        psi = [cosine([(g, everyone)]) for g in gradients]
        agreements.append(np.corrcoef(_ranks(psi), _ranks(_exact_shapley(gradients, shares)))[0, 1])
    assert np.mean(agreements) > 0.9
    assert min(agreements) > 0.6


def test_the_first_weights_are_the_data_share():
    state = initial_weights(FLEET)
    assert state.weights == {"a": 0.1, "b": 0.3, "c": 0.6}
    assert state.participations == {"a": 0, "b": 0, "c": 0}
    assert initial_weights(FLEET, "uniform").weights == pytest.approx(dict.fromkeys(FLEET, 1 / 3))


def test_devices_without_samples_share_equally():
    assert initial_weights({"a": 0, "b": 0}).weights == {"a": 0.5, "b": 0.5}


def test_state_order_is_by_name_whatever_the_order_of_enrolment():
    assert list(initial_weights({"c": 1, "a": 2}).weights) == ["a", "c"]
    assert list(join(RULE, initial_weights({"c": 1, "b": 2}), "a", 1).weights) == ["a", "b", "c"]


def test_trade_off_decays_as_the_specification_lists():
    kept = {0.1: 0.0009, 0.5: 0.040, 0.7: 0.157, 0.9: 0.551}
    for gamma0, expected in kept.items():
        rule = ContributionRule(gamma0=gamma0)
        product = math.prod(trade_off(rule, k) for k in range(1, 201))
        assert product == pytest.approx(expected, abs=0.0012)


def test_the_literal_rule_by_hand():
    state = next_weights(RULE, initial_weights(FLEET), {"a": 0.5, "b": 0.5, "c": -0.9})
    raw = {"a": 0.7 * 0.1 + 0.3 * 0.5, "b": 0.7 * 0.3 + 0.3 * 0.5, "c": 0.7 * 0.6 + 0.3 * -0.9}
    total = sum(raw.values())
    assert state.weights == pytest.approx({d: r / total for d, r in raw.items()})
    assert state.participations == {"a": 1, "b": 1, "c": 1}


def test_literal_psi_outweighs_the_prior_after_one_round_as_documented():
    # Ten devices, psi 0.5, gamma0 0.7: psi carries 68 % of the mass (specification section 4); d0 has the rest only.
    fleet = initial_weights({f"d{i}": 1 for i in range(10)})
    state = next_weights(RULE, fleet, dict.fromkeys(fleet.weights, 0.5) | {"d0": 0.0})
    assert 1.0 - state.weights["d0"] / state.weights["d1"] == pytest.approx(0.68, abs=0.005)


def test_share_means_what_gamma_says_and_leaves_absent_devices_alone():
    rule = ContributionRule(score_scale="share")
    state = next_weights(rule, initial_weights(FLEET), {"a": 0.4, "b": 0.4})
    assert state.weights == pytest.approx({"a": 0.7 * 0.1 + 0.3 * 0.2, "b": 0.7 * 0.3 + 0.3 * 0.2, "c": 0.6})
    assert scores(rule, initial_weights(FLEET), {"a": -1.0, "b": 0.0}) == {"a": 0.0, "b": 0.0}


def test_absent_devices_keep_their_counter():
    state = next_weights(RULE, initial_weights(FLEET), {"a": 0.5})
    assert state.participations == {"a": 1, "b": 0, "c": 0}


def test_a_negative_score_ends_at_the_floor():
    state = initial_weights({"a": 1, "b": 1, "c": 1})
    for _ in range(30):
        state = next_weights(RULE, state, {"a": 0.8, "b": 0.8, "c": -0.8})
    assert state.weights["c"] == pytest.approx(0.0, abs=0.0015)
    assert state.weights["c"] > 0.0
    hard = next_weights(ContributionRule(weight_min=0.0, gamma0=0.0), state, {"a": 0.8, "b": 0.8, "c": -0.8})
    assert hard.weights["c"] == 0.0


@pytest.mark.parametrize("weight_min", [0.0, 1e-3])
def test_all_at_the_floor_falls_back_to_the_data_share(weight_min):
    rule = ContributionRule(gamma0=0.0, weight_min=weight_min)
    state = next_weights(rule, initial_weights(FLEET), {"a": -1.0, "b": -1.0, "c": -0.5})
    assert state.weights == {"a": 0.1, "b": 0.3, "c": 0.6}


def test_a_large_fleet_is_not_all_floor():
    # 2000 equal shares of 5e-4 lie below the floor of 1e-3; a fixed floor would wipe out every difference.
    fleet = initial_weights({f"d{i:04d}": 1 for i in range(2000)})
    rule = ContributionRule(score_scale="share")
    psi = {d: 0.1 if d == "d0000" else 0.9 for d in fleet.weights}
    state = next_weights(rule, fleet, psi)
    assert state.weights["d0000"] < state.weights["d0001"]


@pytest.mark.parametrize("rule", [ContributionRule(gamma0=1.0), ContributionRule(weighting="samples")])
def test_fedavg_keeps_the_data_share_bit_for_bit(rule):
    state = initial_weights({"a": 1, "b": 999_999, "c": 3})  # a's share lies below the floor
    after = state
    for _ in range(5):
        after = next_weights(rule, after, {"a": 0.1, "b": -0.4, "c": 0.9})
    assert after.weights == state.weights
    assert after.participations == {"a": 5, "b": 5, "c": 5}


def test_a_newcomer_gets_the_median_and_a_leaver_is_shared_out():
    state = initial_weights(FLEET)
    joined = join(RULE, state, "d", 5)
    assert joined.weights == pytest.approx({"a": 0.1 / 1.3, "b": 0.3 / 1.3, "c": 0.6 / 1.3, "d": 0.3 / 1.3})
    assert joined.participations["d"] == 0
    assert leave(RULE, joined, "d").weights == pytest.approx(state.weights)
    assert leave(RULE, initial_weights({"a": 1}), "a") == ContributionState()
    assert join(RULE, ContributionState(), "a", 4).weights == {"a": 1.0}


def test_a_rejoining_device_keeps_its_weight_and_counter():
    state = next_weights(RULE, initial_weights(FLEET), {"a": 0.9, "b": 0.1, "c": 0.1})
    again = join(RULE, state, "a", 77)
    assert again.weights == state.weights
    assert again.participations == state.participations
    assert again.sample_counts["a"] == 77


def test_sample_and_uniform_weighting_follow_the_fleet():
    samples, uniform = ContributionRule(weighting="samples"), ContributionRule(weighting="uniform")
    assert join(samples, initial_weights({"a": 1}), "b", 3).weights == {"a": 0.25, "b": 0.75}
    assert join(uniform, initial_weights({"a": 1}, "uniform"), "b", 3).weights == {"a": 0.5, "b": 0.5}
    assert leave(samples, initial_weights(FLEET), "c").weights == {"a": 0.25, "b": 0.75}


def test_unknown_devices_and_impossible_scores_are_refused():
    state = initial_weights(FLEET)
    with pytest.raises(UsageError, match="not enrolled"):
        next_weights(RULE, state, {"z": 0.5})
    with pytest.raises(UsageError, match="not enrolled"):
        leave(RULE, state, "z")
    for bad in (math.nan, 1.5, -math.inf):
        with pytest.raises(UsageError, match="cosine"):
            next_weights(RULE, state, {"a": bad})
    with pytest.raises(UsageError, match="samples"):
        initial_weights({"a": -1})


@pytest.mark.parametrize(
    "wrong", [{"gamma0": 1.2}, {"weight_min": -1.0}, {"weighting": "votes"}, {"score_scale": "log"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ContributionRule(**wrong)


def test_cosine_of_parts_is_the_cosine_of_the_whole():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=100).astype(np.float32), rng.normal(size=100)
    whole = float(a.astype(float) @ b / (np.linalg.norm(a.astype(float)) * np.linalg.norm(b)))
    assert cosine([(a[:30], b[:30]), (a[30:], b[30:])]) == pytest.approx(whole, abs=1e-12)
    assert cosine([(a, a)]) == pytest.approx(1.0)
    assert cosine([(a, np.zeros(100))]) == 0.0
    assert cosine([]) == 0.0
