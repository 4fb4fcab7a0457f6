"""Weights follow scores as the specification says."""

import math

import pytest

from aggregator.core.weighting import WEIGHTINGS, Cgsv, Samples
from aggregator.core.weighting.shares import Shares
from device_runtime.wire.errors import UsageError
from tests.aggregation import aggregate_fleet, make_fleet, make_theta

RULE = Cgsv()
FLEET = {"a": 10, "b": 30, "c": 60}


def initial_weights(sample_counts):
    """What is known after these devices joined first."""
    return RULE.join(Shares(), sample_counts)


def test_the_first_weights_are_the_data_share():
    state = initial_weights(FLEET)
    assert state.weights == {"a": 0.1, "b": 0.3, "c": 0.6}
    assert state.participations == {"a": 0, "b": 0, "c": 0}


def test_devices_without_samples_share_equally():
    assert initial_weights({"a": 0, "b": 0}).weights == {"a": 0.5, "b": 0.5}


def test_state_order_is_by_name_whatever_the_order_of_enrolment():
    assert list(initial_weights({"c": 1, "a": 2}).weights) == ["a", "c"]
    assert list(RULE.join(initial_weights({"c": 1, "b": 2}), {"a": 1}).weights) == ["a", "b", "c"]


def test_trade_off_decays_as_the_specification_lists():
    kept = {0.1: 0.0009, 0.5: 0.040, 0.7: 0.157, 0.9: 0.551}
    for gamma0, expected in kept.items():
        rule = Cgsv(gamma0=gamma0)
        product = math.prod(rule.trade_off(k) for k in range(1, 201))
        assert product == pytest.approx(expected, abs=0.0012)


def test_the_literal_rule_by_hand():
    state = RULE.learn(initial_weights(FLEET), {"a": 0.5, "b": 0.5, "c": -0.9})
    raw = {"a": 0.7 * 0.1 + 0.3 * 0.5, "b": 0.7 * 0.3 + 0.3 * 0.5, "c": 0.7 * 0.6 + 0.3 * -0.9}
    total = sum(raw.values())
    assert state.weights == pytest.approx({d: r / total for d, r in raw.items()})
    assert state.participations == {"a": 1, "b": 1, "c": 1}


def test_literal_psi_outweighs_the_prior_after_one_round_as_documented():
    # Ten devices, psi 0.5, gamma0 0.7: psi carries 68 % of the mass (specification section 4); d0 has the rest only.
    fleet = initial_weights({f"d{i}": 1 for i in range(10)})
    state = RULE.learn(fleet, dict.fromkeys(fleet.weights, 0.5) | {"d0": 0.0})
    assert 1.0 - state.weights["d0"] / state.weights["d1"] == pytest.approx(0.68, abs=0.005)


def test_share_means_what_gamma_says_and_leaves_absent_devices_alone():
    rule = Cgsv(score_scale="share")
    state = rule.learn(initial_weights(FLEET), {"a": 0.4, "b": 0.4})
    assert state.weights == pytest.approx({"a": 0.7 * 0.1 + 0.3 * 0.2, "b": 0.7 * 0.3 + 0.3 * 0.2, "c": 0.6})
    assert rule.scaled(initial_weights(FLEET), {"a": -1.0, "b": 0.0}) == {"a": 0.0, "b": 0.0}


def test_absent_devices_keep_their_counter():
    state = RULE.learn(initial_weights(FLEET), {"a": 0.5})
    assert state.participations == {"a": 1, "b": 0, "c": 0}


def test_a_negative_score_ends_at_the_floor():
    state = initial_weights({"a": 1, "b": 1, "c": 1})
    for _ in range(30):
        state = RULE.learn(state, {"a": 0.8, "b": 0.8, "c": -0.8})
    assert state.weights["c"] == pytest.approx(0.0, abs=0.0015)
    assert state.weights["c"] > 0.0
    hard = Cgsv(weight_min=0.0, gamma0=0.0).learn(state, {"a": 0.8, "b": 0.8, "c": -0.8})
    assert hard.weights["c"] == 0.0


@pytest.mark.parametrize("weight_min", [0.0, 1e-3])
def test_all_at_the_floor_falls_back_to_the_data_share(weight_min):
    rule = Cgsv(gamma0=0.0, weight_min=weight_min)
    state = rule.learn(initial_weights(FLEET), {"a": -1.0, "b": -1.0, "c": -0.5})
    assert state.weights == {"a": 0.1, "b": 0.3, "c": 0.6}


def test_a_large_fleet_is_not_all_floor():
    # 2000 equal shares of 5e-4 lie below the floor of 1e-3; a fixed floor would wipe out every difference.
    fleet = initial_weights({f"d{i:04d}": 1 for i in range(2000)})
    rule = Cgsv(score_scale="share")
    psi = {d: 0.1 if d == "d0000" else 0.9 for d in fleet.weights}
    state = rule.learn(fleet, psi)
    assert state.weights["d0000"] < state.weights["d0001"]


@pytest.mark.parametrize("rule", [Cgsv(gamma0=1.0), Samples()])
def test_fedavg_keeps_the_data_share_bit_for_bit(rule):
    state = initial_weights({"a": 1, "b": 999_999, "c": 3})  # a's share lies below the floor
    after = state
    for _ in range(5):
        after = rule.learn(after, {"a": 0.1, "b": -0.4, "c": 0.9})
    assert after.weights == state.weights
    assert after.participations == {"a": 5, "b": 5, "c": 5}


def test_a_newcomer_gets_the_median():
    state = initial_weights(FLEET)
    joined = RULE.join(state, {"d": 5})
    assert joined.weights == pytest.approx({"a": 0.1 / 1.3, "b": 0.3 / 1.3, "c": 0.6 / 1.3, "d": 0.3 / 1.3})
    assert joined.participations["d"] == 0
    assert RULE.join(Shares(), {"a": 4}).weights == {"a": 1.0}


def test_a_rejoining_device_keeps_its_weight_and_counter():
    state = RULE.learn(initial_weights(FLEET), {"a": 0.9, "b": 0.1, "c": 0.1})
    again = RULE.join(state, {"a": 77})
    assert again.weights == state.weights
    assert again.participations == state.participations
    assert again.sample_counts["a"] == 77


def test_several_newcomers_join_one_after_the_other():
    # d gets the median of 0.1, 0.3, 0.6; then all are divided by 1.3, and e gets the median of those four: 0.3 / 1.3.
    joined = RULE.join(initial_weights(FLEET), {"a": 11, "d": 5, "e": 7})
    raw = {"a": 0.1, "b": 0.3, "c": 0.6, "d": 0.3, "e": 0.3}
    assert joined.weights == pytest.approx({device: r / 1.6 for device, r in raw.items()})
    assert joined.sample_counts == {"a": 11, "b": 30, "c": 60, "d": 5, "e": 7}


def test_unknown_devices_and_impossible_scores_are_refused():
    state = initial_weights(FLEET)
    with pytest.raises(UsageError, match="not known"):
        RULE.learn(state, {"z": 0.5})
    for bad in (math.nan, 1.5, -math.inf):
        with pytest.raises(UsageError, match="cosine"):
            RULE.learn(state, {"a": bad})
    with pytest.raises(UsageError, match="samples"):
        initial_weights({"a": -1})


@pytest.mark.parametrize("wrong", [{"gamma0": 1.2}, {"weight_min": -1.0}, {"kind": "votes"}, {"score_scale": "log"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WEIGHTINGS.read({"kind": "cgsv"} | wrong)


def test_gamma0_of_one_is_fedavg_bit_for_bit_over_rounds():
    def play(rule):
        theta, state = make_theta(), initial_weights({f"d{i}": 10 * (i + 1) for i in range(4)})
        for round_index in range(4):
            updates = make_fleet(4, seed=round_index)
            result = aggregate_fleet(updates, prior=state.weights, theta=theta)
            theta, state = result.theta, rule.learn(state, result.scores)
        return theta

    fedavg, cgsv = play(Samples()), play(Cgsv(gamma0=1.0))
    for name in fedavg:
        assert fedavg[name].tobytes() == cgsv[name].tobytes()
