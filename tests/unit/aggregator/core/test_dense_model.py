"""The dense model through steps and mask changes: a round never touches what stands off the mask."""

import numpy as np
import pytest

from aggregator.core.combining.partial import Update
from aggregator.core.dense_model import ModelState, adopt_masks, commit_step, sparse_params, start
from aggregator.core.residuals import Keep, Trained, Zero
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Kept, Support
from tests.aggregation import aggregate

INITIAL = {"w": np.array([1.0, 2.0, 3.0, 4.0], np.float32), "b": np.array([0.5], np.float32)}
LEFT = {"w": np.array([True, True, False, False])}
RIGHT = {"w": np.array([False, False, True, True])}


def _step(state, w, covered):
    return commit_step(
        state,
        {"w": np.array(w, np.float32), "b": state.theta["b"]},
        {"w": np.array(covered, bool), "b": np.array([True])},
    )


def test_a_trained_weight_comes_back_with_its_value():
    state = _step(start(INITIAL, LEFT, Trained()), [10, 20, 0, 0], [1, 1, 0, 0])
    away = adopt_masks(state, RIGHT, Trained(), {})
    assert sparse_params(away)["w"].tolist() == [0, 0, 0, 0]
    assert np.where(away.masks["w"], 0, away.theta["w"]).tolist() == [10, 20, 0, 0]
    back = adopt_masks(away, LEFT, Trained(), {})
    assert sparse_params(back)["w"].tolist() == [10, 20, 0, 0]


def test_grown_values_reach_new_coordinates_only():
    state = _step(start(INITIAL, LEFT, Trained()), [10, 20, 0, 0], [1, 1, 0, 0])
    wider = {"w": np.array([True, True, True, False])}
    after = adopt_masks(state, wider, Trained(), {"w": np.full(4, 7.0, np.float32)})
    assert after.theta["w"].tolist() == [10, 20, 7, 0]


def test_covered_may_reach_beyond_the_common_mask():
    state = _step(start(INITIAL, LEFT, Keep()), [10, 2, 30, 4], [1, 0, 1, 0])
    assert state.trained["w"].tolist() == [True, False, True, False]


def test_committing_an_aggregate_is_restoration_by_residual():
    state = start(INITIAL, LEFT, Keep())
    support = Support.from_mask(LEFT["w"])
    delta = {
        "w": Kept(np.array([0.5, -0.5], np.float32), support),
        "b": Kept.of(INITIAL["b"], Support.everything((1,))),
    }
    updates = [Update("a", delta, 3)]
    result = aggregate(state.theta, {"a": 1.0}, lambda: iter(updates), {"w": "weight", "b": "bias"})
    after = commit_step(state, result.theta, result.covered)
    assert after.theta["w"].tolist() == [1.5, 1.5, 3, 4]
    # θ^{t+1} = θ^t - m·θ^t + θ̂^{t+1/2}: the devices' sparse model on the mask, the residual off it (specification,
    # section 5; R2SP of FedMP, Jiang et al., ICDE 2022).
    mask, sparse = LEFT["w"].astype(np.float32), np.array([1.5, 1.5, 0, 0], np.float32)
    restored = state.theta["w"] - mask * state.theta["w"] + sparse
    assert after.theta["w"].tobytes() == restored.tobytes()
    assert after.theta["b"].tolist() == [1.0]


def test_a_step_off_the_covered_coordinates_is_refused():
    state = start(INITIAL, LEFT, Keep())
    with pytest.raises(UsageError, match="no device held"):
        _step(state, [1, 2, 3, 4.5], [1, 1, 0, 0])
    with pytest.raises(UsageError, match="finite"):
        _step(state, [np.nan, 2, 3, 4], [1, 1, 0, 0])
    # Even the sign of a zero counts.
    zero = start({**INITIAL, "w": np.zeros(4, np.float32)}, LEFT, Trained())
    with pytest.raises(UsageError, match="no device held"):
        _step(zero, [0, 0, 0, -0.0], [1, 1, 0, 0])


def test_wrong_masks_and_names_are_refused():
    state = start(INITIAL, LEFT, Trained())
    with pytest.raises(UsageError, match="mask 'x'"):
        start(INITIAL, {"x": np.array([True])}, Trained())
    with pytest.raises(UsageError, match="mask 'w'"):
        adopt_masks(state, {"w": np.array([True])}, Trained(), {})
    with pytest.raises(UsageError, match="same weights"):
        adopt_masks(state, {}, Trained(), {})
    with pytest.raises(UsageError, match="covered"):
        commit_step(state, state.theta, {})
    with pytest.raises(UsageError, match="not in both"):
        commit_step(state, {"w": state.theta["w"]}, LEFT)


def test_states_are_not_changed():
    state = start(INITIAL, LEFT, Keep())
    _step(state, [5, 6, 3, 4], [1, 1, 0, 0])
    adopt_masks(state, RIGHT, Zero(), {"w": np.full(4, 9.0, np.float32)})
    sparse_params(state)["w"][:] = 0
    assert isinstance(state, ModelState)
    assert state.theta["w"].tolist() == [1, 2, 3, 4]
    assert state.masks["w"].tolist() == LEFT["w"].tolist()
    assert not state.trained["w"].any()
    assert INITIAL["w"].tolist() == [1, 2, 3, 4]
