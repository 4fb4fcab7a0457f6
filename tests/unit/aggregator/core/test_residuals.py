"""What stands off the mask under each policy, and that a round never touches it."""

import numpy as np
import pytest

from aggregator.core.averaging import AveragingRule, Update, aggregate
from aggregator.core.residuals import ModelState, adopt_masks, commit_step, residual, restore, sparse_params, start
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Kept, Support

INITIAL = {"w": np.array([1.0, 2.0, 3.0, 4.0], np.float32), "b": np.array([0.5], np.float32)}
LEFT = {"w": np.array([True, True, False, False])}
RIGHT = {"w": np.array([False, False, True, True])}


def _step(state, w, covered):
    return commit_step(
        state,
        {"w": np.array(w, np.float32), "b": state.theta["b"]},
        {"w": np.array(covered, bool), "b": np.array([True])},
    )


@pytest.mark.parametrize(
    ("policy", "expected"), [("trained", [1, 2, 0, 0]), ("keep", [1, 2, 3, 4]), ("zero", [1, 2, 0, 0])]
)
def test_the_start_of_each_policy(policy, expected):
    state = start(INITIAL, LEFT, policy)
    assert state.theta["w"].tolist() == expected
    assert state.theta["b"].tolist() == [0.5]
    assert not state.trained["w"].any()
    assert sparse_params(state)["w"].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Coordinate 0 was trained to 10 and is pruned; 1 was on the mask, but nobody trained it.
        ("trained", [10, 0, 30, 40]),
        ("keep", [10, 2, 30, 40]),
        ("zero", [0, 0, 30, 40]),
    ],
)
def test_a_mask_change_under_each_policy(policy, expected):
    state = _step(start(INITIAL, LEFT, policy), [10, 2, *start(INITIAL, LEFT, policy).theta["w"][2:]], [1, 0, 0, 0])
    grown = {"w": np.array([-1, -1, 30, 40], np.float32)}
    after = adopt_masks(state, RIGHT, policy, grown)
    assert after.theta["w"].tolist() == expected
    assert after.masks["w"].tolist() == RIGHT["w"].tolist()
    assert after.trained["w"].tolist() == [True, False, False, False]


def test_a_trained_weight_comes_back_with_its_value():
    state = _step(start(INITIAL, LEFT), [10, 20, 0, 0], [1, 1, 0, 0])
    away = adopt_masks(state, RIGHT, "trained", {})
    assert sparse_params(away)["w"].tolist() == [0, 0, 0, 0]
    assert residual(away)["w"].tolist() == [10, 20, 0, 0]
    back = adopt_masks(away, LEFT, "trained", {})
    assert sparse_params(back)["w"].tolist() == [10, 20, 0, 0]


def test_grown_values_reach_new_coordinates_only():
    state = _step(start(INITIAL, LEFT), [10, 20, 0, 0], [1, 1, 0, 0])
    wider = {"w": np.array([True, True, True, False])}
    after = adopt_masks(state, wider, "trained", {"w": np.full(4, 7.0, np.float32)})
    assert after.theta["w"].tolist() == [10, 20, 7, 0]


def test_covered_may_reach_beyond_the_common_mask():
    state = _step(start(INITIAL, LEFT, "keep"), [10, 2, 30, 4], [1, 0, 1, 0])
    assert state.trained["w"].tolist() == [True, False, True, False]


def test_committing_an_aggregate_is_restoration_by_residual():
    state = start(INITIAL, LEFT, "keep")
    support = Support.from_mask(LEFT["w"])
    delta = {
        "w": Kept(np.array([0.5, -0.5], np.float32), support),
        "b": Kept.of(INITIAL["b"], Support.everything((1,))),
    }
    updates = [Update("a", delta, 3)]
    result = aggregate(state.theta, {"a": 1.0}, lambda: iter(updates), AveragingRule(), {"w": "weight", "b": "bias"})
    after = commit_step(state, result.theta, result.covered)
    assert after.theta["w"].tolist() == [1.5, 1.5, 3, 4]
    restored = restore(state, {"w": np.array([1.5, 1.5, 9, 9], np.float32), "b": np.array([1.0], np.float32)})
    for name in INITIAL:
        assert after.theta[name].tobytes() == restored[name].tobytes()


def test_a_step_off_the_covered_coordinates_is_refused():
    state = start(INITIAL, LEFT, "keep")
    with pytest.raises(UsageError, match="no device held"):
        _step(state, [1, 2, 3, 4.5], [1, 1, 0, 0])
    with pytest.raises(UsageError, match="finite"):
        _step(state, [np.nan, 2, 3, 4], [1, 1, 0, 0])
    # Even the sign of a zero counts.
    zero = start({**INITIAL, "w": np.zeros(4, np.float32)}, LEFT)
    with pytest.raises(UsageError, match="no device held"):
        _step(zero, [0, 0, 0, -0.0], [1, 1, 0, 0])


def test_wrong_masks_names_and_policies_are_refused():
    state = start(INITIAL, LEFT)
    with pytest.raises(UsageError, match="mask 'x'"):
        start(INITIAL, {"x": np.array([True])})
    with pytest.raises(UsageError, match="mask 'w'"):
        adopt_masks(state, {"w": np.array([True])}, "trained", {})
    with pytest.raises(UsageError, match="same weights"):
        adopt_masks(state, {}, "trained", {})
    with pytest.raises(UsageError, match="residual policy"):
        adopt_masks(state, LEFT, "forget", {})
    with pytest.raises(UsageError, match="covered"):
        commit_step(state, state.theta, {})
    with pytest.raises(UsageError, match="not in both"):
        commit_step(state, {"w": state.theta["w"]}, LEFT)


def test_states_are_not_changed():
    state = start(INITIAL, LEFT, "keep")
    _step(state, [5, 6, 3, 4], [1, 1, 0, 0])
    adopt_masks(state, RIGHT, "zero", {"w": np.full(4, 9.0, np.float32)})
    sparse_params(state)["w"][:] = 0
    assert isinstance(state, ModelState)
    assert state.theta["w"].tolist() == [1, 2, 3, 4]
    assert state.masks["w"].tolist() == LEFT["w"].tolist()
    assert not state.trained["w"].any()
    assert INITIAL["w"].tolist() == [1, 2, 3, 4]
