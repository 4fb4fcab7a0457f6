"""Sums of updates: merged they are one sum, read one at a time, and what cannot be summed is refused."""

import numpy as np
import pytest

from aggregator.core.combining import Mean, RescaledStep
from aggregator.core.combining.partial import Answers, Update, first_pass, merge
from aggregator.core.scoring.cosine import directions, score
from device_runtime.wire.errors import UsageError
from tests.aggregation import (
    ROLES,
    SHAPES,
    aggregate,
    aggregate_fleet,
    make_fleet,
    make_theta,
    make_update,
    prior_of,
    random_masks,
)


def test_merging_partial_sums_is_associative_and_equals_one_sum():
    theta, updates = make_theta(), make_fleet(6, masks=random_masks(6))
    prior = prior_of(updates)
    a, b, c = (first_pass(theta, prior, iter(updates[i : i + 2]), ROLES) for i in (0, 2, 4))
    whole = first_pass(theta, prior, iter(updates), ROLES)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert left.members == right.members == whole.members
    answers = Answers({}, lambda: iter(updates))
    for rule in (Mean(), RescaledStep(coverage="residual_mean", votes_min=2)):
        expected = rule.combine(theta, whole, answers, ROLES).theta
        for partial in (left, right):
            for name, value in rule.combine(theta, partial, answers, ROLES).theta.items():
                np.testing.assert_allclose(value, expected[name], atol=1e-6)
    one_pass = aggregate_fleet(updates).scores
    assert {u.device: score(u, directions(left)) for u in updates} == pytest.approx(one_pass, abs=1e-9)


@pytest.mark.parametrize("order", ["aaaaaa", "aabbba", "ababab", "abcabc"])
def test_sums_are_those_of_adding_each_update_to_the_dense_tensor_bit_for_bit(order):
    masks = dict(zip("abc", random_masks(3), strict=True))
    theta, updates = make_theta(), make_fleet(6, masks=[masks[letter] for letter in order])
    prior = prior_of(updates)
    partial = first_pass(theta, prior, iter(updates), ROLES)
    norms = {member.device: member.norm for member in partial.members}
    for name, tally in partial.direction.items():
        numerator, denominator, holders = (np.zeros(SHAPES[name]) for _ in range(3))
        for update in updates:
            mask = update.delta[name].support.dense_mask()
            unit = update.delta[name].values.astype(np.float64) * (prior[update.device] * (1.0 / norms[update.device]))
            numerator[mask] += unit
            denominator[mask] += prior[update.device]
            holders[mask] += 1
        assert numerator.tobytes() == tally.numerator.tobytes()
        assert denominator.tobytes() == tally.denominator.tobytes()
        assert (holders == tally.holders).all()


def test_updates_are_read_one_at_a_time_twice():
    alive, most, passes = 0, 0, 0

    class Counted(dict):
        def __init__(self, source):
            nonlocal alive, most
            super().__init__(source)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    fleet = make_fleet(6)

    def updates():
        nonlocal passes
        passes += 1
        for u in fleet:
            yield Update(u.device, Counted(u.delta), u.sample_count)

    aggregate(make_theta(), prior_of(fleet), updates, ROLES)
    assert passes == 2
    # The loop variable still holds the last update while the iterator makes the next one.
    assert most <= 2


def test_what_cannot_be_summed_is_refused():
    good = make_fleet(2)
    nan = {n: np.zeros(s) for n, s in SHAPES.items()} | {"b": np.array([0.0, np.nan, 0.0, 0.0])}
    with pytest.raises(UsageError, match="not finite in 'b'"):
        aggregate_fleet([*good, make_update("d2", nan)])
    with pytest.raises(UsageError, match="without updates"):
        aggregate_fleet([], prior={"a": 1.0})
    with pytest.raises(UsageError, match="two updates"):
        aggregate_fleet([good[0], good[0]], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="has the weight None"):
        aggregate_fleet(good, prior={"d0": 1.0})
    for bad in (float("nan"), float("inf"), -0.1):
        with pytest.raises(UsageError, match="has the weight"):
            aggregate_fleet(good, prior={"d0": bad, "d1": 1.0})
    with pytest.raises(UsageError, match="does not fit the model"):
        aggregate_fleet([make_update("d0", {"x": np.zeros(3)})], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="does not fit the model"):
        aggregate_fleet([make_update("d0", {"w": np.zeros(3)})], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="no role"):
        aggregate(make_theta(), prior_of(good), lambda: iter(good), {"w": "weight"})
    huge, theta = {"w": np.full((4, 3), 3.4e38)}, make_theta() | {"w": np.full((4, 3), 3e38, np.float32)}
    with pytest.raises(UsageError, match="beyond float32"):
        aggregate_fleet([make_update("d0", huge)], prior={"d0": 1.0}, theta=theta)


def test_a_second_pass_over_other_updates_is_refused():
    fleet = make_fleet(3)
    answers = iter([fleet, fleet[:2]])
    with pytest.raises(UsageError, match="second pass"):
        aggregate(make_theta(), prior_of(fleet), lambda: iter(next(answers)), ROLES)
    partial = first_pass(make_theta(), prior_of(fleet), iter(fleet), ROLES)
    with pytest.raises(UsageError, match="both partial sums"):
        merge(partial, partial)
