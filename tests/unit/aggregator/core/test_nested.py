"""Submodels of several sparsities in one round, by hand: who is averaged where, scored on what, and what stays."""

import numpy as np
import pytest

from aggregator.core.combining import Mean
from aggregator.core.combining.partial import Update
from aggregator.core.dense_model import commit_step, start
from aggregator.core.residuals import Trained
from device_runtime.wire.support import Kept, Support
from tests.aggregation import aggregate, norms_of

ROLES = {"w": "weight"}
RUN = {"w": np.array([True, True, True, False])}
THETA = {"w": np.array([4.0, -3.0, 1.0, 9.0], dtype=np.float32)}


def update(device: str, values: list[float], mask: list[bool]) -> Update:
    support = Support.from_mask(np.array(mask))
    return Update(device, {"w": Kept(np.array(values, dtype=np.float32), support)}, 10)


WIDE = update("a", [1.0, 2.0, 2.0], [True, True, True, False])
NARROW = update("b", [2.0], [True, False, False, False])


def averaged(*updates: Update, **rule: object):
    prior = {u.device: 1 / len(updates) for u in updates}
    state = start(THETA, RUN, Trained())
    return state, aggregate(state.theta, prior, lambda: iter(updates), ROLES, Mean(**rule))


def test_a_coordinate_is_averaged_over_the_devices_that_hold_it():
    _, result = averaged(WIDE, NARROW)
    assert result.theta["w"].tolist() == [4.0 + 1.5, -3.0 + 2.0, 1.0 + 2.0, 0.0]


def test_with_residual_mean_those_without_it_count_as_no_change():
    _, result = averaged(WIDE, NARROW, coverage="residual_mean")
    assert result.theta["w"].tolist() == [4.0 + 1.5, -3.0 + 1.0, 1.0 + 1.0, 0.0]


def test_a_device_is_scored_on_its_own_coordinates_only():
    # u_a = (1, 2, 2)/3, u_b = (1): U = ((1/3 + 1)/2, 2/3, 2/3) = (2/3, 2/3, 2/3).
    # psi_a = (1 + 2 + 2) / (3 sqrt 3), psi_b = 1: b is not marked down for the two coordinates it does not hold.
    _, result = averaged(WIDE, NARROW)
    assert result.scores == pytest.approx({"a": 5 / (3 * np.sqrt(3)), "b": 1.0})
    assert norms_of(THETA, {"a": 0.5, "b": 0.5}, iter([WIDE, NARROW]), ROLES) == {"a": 3.0, "b": 2.0}


def test_what_only_sparser_devices_could_have_trained_keeps_its_bits_and_is_not_trained():
    state, result = averaged(NARROW)
    after = commit_step(state, result.theta, result.covered)
    assert after.theta["w"].tolist() == [6.0, -3.0, 1.0, 0.0]
    assert after.trained["w"].tolist() == [True, False, False, False]
    assert after.masks["w"].tolist() == RUN["w"].tolist(), "the run's mask is the widest, whoever answered"


def test_the_residual_is_untouched_and_the_wide_devices_coordinates_are_trained():
    state, result = averaged(WIDE, NARROW)
    after = commit_step(state, result.theta, result.covered)
    assert after.trained["w"].tolist() == [True, True, True, False]
    assert after.theta["w"][3] == state.theta["w"][3]
