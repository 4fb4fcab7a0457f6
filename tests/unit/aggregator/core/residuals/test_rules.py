"""What stands off the mask under each rule."""

import numpy as np
import pytest

from aggregator.core.dense_model import adopt_masks, commit_step, sparse_params, start
from aggregator.core.residuals import Keep, Trained, Zero

INITIAL = {"w": np.array([1.0, 2.0, 3.0, 4.0], np.float32), "b": np.array([0.5], np.float32)}
LEFT = {"w": np.array([True, True, False, False])}
RIGHT = {"w": np.array([False, False, True, True])}


def _step(state, w, covered):
    return commit_step(
        state,
        {"w": np.array(w, np.float32), "b": state.theta["b"]},
        {"w": np.array(covered, bool), "b": np.array([True])},
    )


def test_where_each_rule_keeps_values_by_hand():
    mask, trained = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert Trained().kept(mask, trained).tolist() == [True, True, True, False]
    assert Keep().kept(mask, trained).tolist() == [True, True, True, True]
    assert Zero().kept(mask, trained).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("rule", "expected"), [(Trained(), [1, 2, 0, 0]), (Keep(), [1, 2, 3, 4]), (Zero(), [1, 2, 0, 0])]
)
def test_the_start_of_each_rule(rule, expected):
    state = start(INITIAL, LEFT, rule)
    assert state.theta["w"].tolist() == expected
    assert state.theta["b"].tolist() == [0.5]
    assert not state.trained["w"].any()
    assert sparse_params(state)["w"].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Coordinate 0 was trained to 10 and is pruned; 1 was on the mask, but nobody trained it.
        (Trained(), [10, 0, 30, 40]),
        (Keep(), [10, 2, 30, 40]),
        (Zero(), [0, 0, 30, 40]),
    ],
)
def test_a_mask_change_under_each_rule(rule, expected):
    state = _step(start(INITIAL, LEFT, rule), [10, 2, *start(INITIAL, LEFT, rule).theta["w"][2:]], [1, 0, 0, 0])
    grown = {"w": np.array([-1, -1, 30, 40], np.float32)}
    after = adopt_masks(state, RIGHT, rule, grown)
    assert after.theta["w"].tolist() == expected
    assert after.masks["w"].tolist() == RIGHT["w"].tolist()
    assert after.trained["w"].tolist() == [True, False, False, False]
