"""The masked mean: identities with FedAvg, hand-computed cases, and refusals."""

import itertools

import numpy as np
import pytest

from aggregator.core.combining import COMBININGS, Mean, RescaledStep, UnitStep
from aggregator.core.combining.partial import Update
from device_runtime.wire.support import Kept, Support
from tests.aggregation import (
    SHAPES,
    aggregate,
    aggregate_fleet,
    make_fleet,
    make_theta,
    make_update,
    norms_of,
    prior_of,
    random_masks,
)


def _fedavg(theta, updates):
    """The dumb twin: plain loops over coordinates and clients."""
    total = sum(u.sample_count for u in updates)
    result = {}
    for name, value in theta.items():
        out = np.zeros(value.size)
        for i in range(value.size):
            local = [float(value.ravel()[i]) + float(u.delta[name].dense().ravel()[i]) for u in updates]
            out[i] = sum(u.sample_count / total * x for u, x in zip(updates, local, strict=True))
        result[name] = out.reshape(value.shape)
    return result


def test_full_masks_and_sample_weights_are_fedavg():
    updates = make_fleet(5, scale=0.01)
    got = aggregate_fleet(updates).theta
    for name, expected in _fedavg(make_theta(), updates).items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", [Mean, UnitStep, RescaledStep])
def test_equal_masks_make_both_coverages_equal(rule):
    mask = random_masks(1)[0]
    updates = make_fleet(4, masks=[mask] * 4)
    one = aggregate_fleet(updates, rule(coverage="coverage"))
    other = aggregate_fleet(updates, rule(coverage="residual_mean"))
    for name in SHAPES:
        assert one.theta[name].tobytes() == other.theta[name].tobytes()
    assert one.scores == other.scores


def test_weights_follow_r_and_statistics_follow_samples():
    ones = {n: np.ones(s) for n, s in SHAPES.items()}
    zeros = {n: np.zeros(s) for n, s in SHAPES.items()}
    updates = [make_update("a", ones, samples=10), make_update("b", zeros, samples=30)]
    theta = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    moved = aggregate_fleet(updates, prior={"a": 0.9, "b": 0.1}, theta=theta).theta
    assert moved["w"] == pytest.approx(np.full((4, 3), 0.9))
    assert moved["b"] == pytest.approx(np.full(4, 0.9))
    assert moved["bn.weight"] == pytest.approx(np.full(4, 0.25))
    assert moved["bn.running_var"] == pytest.approx(np.full(4, 0.25))


def test_each_coordinate_is_averaged_over_its_holders():
    theta = {"w": np.zeros(3, np.float32)}
    a = make_update("a", {"w": np.array([1.0, 1.0, 0.0])}, {"w": np.array([True, True, False])})
    b = make_update("b", {"w": np.array([4.0, 0.0, 0.0])}, {"w": np.array([True, False, False])})
    prior = {"a": 0.25, "b": 0.75}

    def step(rule):
        return aggregate(theta, prior, lambda: iter([a, b]), {"w": "weight"}, rule)

    assert step(Mean()).theta["w"].tolist() == [3.25, 1.0, 0.0]
    assert step(Mean(coverage="residual_mean")).theta["w"].tolist() == [3.25, 0.25, 0.0]
    voted = step(Mean(votes_min=2))
    assert voted.theta["w"].tolist() == [3.25, 0.0, 0.0]
    assert voted.covered["w"].tolist() == [True, False, False]


def test_a_coordinate_nobody_held_keeps_its_bits():
    masks = [{"w": np.eye(4, 3, dtype=bool)} for _ in range(3)]
    theta = make_theta()
    theta["w"][0, 1] = np.float32(-0.0)
    theta["w"][0, 2] = np.float32(1e-42)  # subnormal
    result = aggregate_fleet(make_fleet(3, masks=masks), theta=theta)
    off = ~np.eye(4, 3, dtype=bool)
    assert result.theta["w"][off].tobytes() == theta["w"][off].tobytes()
    assert np.array_equal(result.covered["w"], ~off)


def test_an_empty_update_scores_zero_and_counts_in_the_raw_mean_only():
    full = make_update("a", {"w": np.ones(2)})
    empty = make_update("b", {"w": np.zeros(2)})
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    prior = {"a": 0.5, "b": 0.5}
    result = aggregate(theta, prior, lambda: iter([full, empty]), roles)
    assert result.scores == {"a": pytest.approx(1.0), "b": 0.0}
    assert norms_of(theta, prior, iter([full, empty]), roles)["b"] == 0.0
    assert result.theta["w"].tolist() == [0.5, 0.5]


def test_device_order_gives_the_same_bits_and_any_order_the_same_value():
    updates = make_fleet(4, masks=random_masks(4))
    expected = aggregate_fleet(updates)
    for order in itertools.permutations(updates):
        arrived = aggregate_fleet(list(order), prior=prior_of(updates))
        in_order = aggregate_fleet(sorted(order, key=lambda u: u.device), prior=prior_of(updates))
        for name in SHAPES:
            assert in_order.theta[name].tobytes() == expected.theta[name].tobytes()
            np.testing.assert_allclose(arrived.theta[name], expected.theta[name], atol=1e-6)
        assert in_order.scores == expected.scores


def test_a_support_by_axes_is_the_same_as_its_mask():
    rng = np.random.default_rng(5)
    shape, picks = (6, 5), (np.array([0, 2, 5]), np.array([1, 4]))
    axes = Support.from_axes(shape, picks)
    mask = Support.from_mask(axes.dense_mask())
    theta, roles = {"w": rng.normal(size=shape).astype(np.float32)}, {"w": "weight"}
    values = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]

    def play(support):
        fleet = [Update("a", {"w": Kept.of(values[0], support)}, 1), Update("b", {"w": Kept.of(values[1], support)}, 1)]
        return aggregate(theta, {"a": 0.4, "b": 0.6}, lambda: iter(fleet), roles)

    assert play(axes).theta["w"].tobytes() == play(mask).theta["w"].tobytes()
    assert play(axes).scores == play(mask).scores


def test_participants_without_any_weight_count_by_samples():
    updates = make_fleet(3)
    weightless = aggregate_fleet(updates, prior=dict.fromkeys(("d0", "d1", "d2"), 0.0))
    by_samples = aggregate_fleet(updates)
    for name in SHAPES:
        np.testing.assert_allclose(weightless.theta[name], by_samples.theta[name], atol=1e-6)


def test_a_running_variance_never_becomes_negative():
    theta = {"bn.running_var": np.full(4, 0.01, np.float32), "bn.running_mean": np.full(4, 0.01, np.float32)}
    roles = dict.fromkeys(theta, "statistic")
    updates = [make_update("a", {n: np.full(4, -0.02) for n in theta})]
    moved = aggregate(theta, {"a": 1.0}, lambda: iter(updates), roles).theta
    assert moved["bn.running_var"].tolist() == [0.0] * 4
    assert moved["bn.running_mean"] == pytest.approx(np.full(4, -0.01))


def test_arguments_are_not_changed():
    theta, updates = make_theta(), make_fleet(3, masks=random_masks(3))
    before = {n: v.copy() for n, v in theta.items()}
    sent = [{n: k.values.copy() for n, k in u.delta.items()} for u in updates]
    aggregate_fleet(updates, theta=theta)
    for name in theta:
        assert theta[name].tobytes() == before[name].tobytes()
    for update, values in zip(updates, sent, strict=True):
        for name, kept in update.delta.items():
            assert kept.values.tobytes() == values[name].tobytes()


@pytest.mark.parametrize(
    "wrong",
    [{"coverage": "all"}, {"kind": "big"}, {"kind": "unit", "unit_length": 0.0}, {"votes_min": 0}],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        COMBININGS.read({"kind": "mean"} | wrong)
