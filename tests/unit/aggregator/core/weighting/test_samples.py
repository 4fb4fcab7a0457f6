"""Weights that no score moves: by samples, and the same for all."""

import pytest

from aggregator.core.weighting import Samples, UniformWeights
from aggregator.core.weighting.shares import Shares

FLEET = {"a": 10, "b": 30, "c": 60}


def test_the_first_weights_are_the_data_share_and_equal_shares():
    assert Samples().join(Shares(), FLEET).weights == {"a": 0.1, "b": 0.3, "c": 0.6}
    assert UniformWeights().join(Shares(), FLEET).weights == pytest.approx(dict.fromkeys(FLEET, 1 / 3))


def test_devices_without_samples_share_equally():
    assert Samples().join(Shares(), {"a": 0, "b": 0}).weights == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("rule", "expected"), [(Samples(), {"a": 0.25, "b": 0.75}), (UniformWeights(), {"a": 0.5, "b": 0.5})]
)
def test_weights_follow_the_fleet(rule, expected):
    known = rule.join(rule.join(Shares(), {"b": 1}), {"a": 1, "b": 3})
    assert rule.weights(known) == expected
    assert list(known.weights) == ["a", "b"]


@pytest.mark.parametrize("rule", [Samples(), UniformWeights()])
def test_rounds_are_counted_and_a_newcomer_begins_at_none(rule):
    known = rule.learn(rule.join(Shares(), FLEET), {"a": 0.9, "c": -0.9})
    assert known.weights == rule.join(Shares(), FLEET).weights
    assert rule.join(known, {"d": 5}).participations == {"a": 1, "b": 0, "c": 1, "d": 0}
