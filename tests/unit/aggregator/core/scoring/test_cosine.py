"""The masked cosine: identities with the plain one, and the ranks of exact Shapley values."""

import itertools
import math

import numpy as np
import pytest

from aggregator.core.combining.partial import Update, first_pass
from aggregator.core.scoring import Cosine
from aggregator.core.scoring.cosine import directions, score
from aggregator.core.vectors import cosine
from aggregator.core.weighting import Cgsv
from device_runtime.wire.support import Kept, Support
from tests.aggregation import (
    ROLES,
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


def test_identical_devices_score_one_and_share_equally():
    delta = {n: np.random.default_rng(2).normal(size=s) for n, s in SHAPES.items()}
    updates = [make_update(f"d{i}", delta) for i in range(4)]
    rule = Cgsv()
    state = rule.join(rule.start(), {u.device: 10 for u in updates})
    for _ in range(5):
        result = aggregate_fleet(updates, prior=state.weights)
        assert list(result.scores.values()) == pytest.approx([1.0] * 4)
        state = rule.learn(state, result.scores)
    assert list(state.weights.values()) == pytest.approx([0.25] * 4)


def test_a_device_that_sends_the_opposite_ends_at_the_floor():
    good = {n: np.random.default_rng(2).normal(size=s) for n, s in SHAPES.items()}
    updates = [make_update(f"d{i}", good) for i in range(3)] + [make_update("evil", {n: -d for n, d in good.items()})]
    rule = Cgsv()
    state = rule.join(rule.start(), {u.device: 10 for u in updates})
    for _ in range(20):
        result = aggregate_fleet(updates, prior=state.weights)
        state = rule.learn(state, result.scores)
    assert result.scores["evil"] == pytest.approx(-1.0)
    assert state.weights["evil"] < 2 * rule.weight_min


def test_identical_masks_make_the_masked_cosine_the_plain_one():
    mask = random_masks(1)[0]
    updates = make_fleet(4, masks=[mask] * 4)
    result = aggregate_fleet(updates)
    flat = [np.concatenate([u.delta["w"].dense().ravel(), u.delta["b"].dense()]).astype(float) for u in updates]
    units = [f / np.linalg.norm(f) for f in flat]
    u = sum(r * v for r, v in zip(prior_of(updates).values(), units, strict=True))
    for update, unit in zip(updates, units, strict=True):
        assert result.scores[update.device] == pytest.approx(unit @ u / np.linalg.norm(u), abs=1e-9)


def test_only_weights_and_biases_are_scored():
    updates = make_fleet(3)
    noisy = [
        Update(u.device, {**u.delta, "bn.weight": Kept.of(np.full(4, 9.0, np.float32), Support.everything((4,)))}, 10)
        for u in updates
    ]
    assert aggregate_fleet(updates).scores == aggregate_fleet(noisy, prior=prior_of(updates)).scores
    prior = prior_of(updates)
    assert norms_of(make_theta(), prior, iter(updates), ROLES) == norms_of(make_theta(), prior, iter(noisy), ROLES)


def test_excluding_self_scores_against_the_others():
    updates = make_fleet(4, masks=random_masks(4))
    got = aggregate_fleet(updates, scoring=Cosine(exclude_self=True)).scores
    for update in updates:
        others = [u for u in updates if u is not update]
        direction = directions(first_pass(make_theta(), prior_of(updates), iter(others), ROLES))
        assert got[update.device] == pytest.approx(score(update, direction), abs=1e-9)
    assert aggregate_fleet(updates[:1], prior={"d0": 1.0}, scoring=Cosine(exclude_self=True)).scores == {"d0": 0.0}


def test_an_update_too_short_to_have_a_direction_stays_out_of_u():
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    updates = [make_update("a", {"w": np.array([1.0, 0.0])}), make_update("b", {"w": np.array([0.0, 1e-14])})]
    result = aggregate(theta, {"a": 0.5, "b": 0.5}, lambda: iter(updates), roles)
    assert result.scores == {"a": pytest.approx(1.0), "b": 0.0}


def test_rounding_left_of_negligible_others_is_no_direction():
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    updates = [make_update("a", {"w": np.array([1.0, 0.7])}), make_update("b", {"w": np.array([0.3, -1.0])})]
    prior = {"a": 1.0, "b": 1.5e-16}
    result = aggregate(theta, prior, lambda: iter(updates), roles, scoring=Cosine(exclude_self=True))
    assert result.scores["a"] == 0.0


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
