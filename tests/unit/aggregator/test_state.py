"""A run's state comes back from disk as it was, order included: a restart must not change the bits of the run."""

import numpy as np
import pytest

from aggregator.core.dense_model import ModelState
from aggregator.core.method import Memory, RunState
from aggregator.state import decode_state, encode_state
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.tensors import encode_tensors


def _state(names: list[str]) -> RunState:
    draws = np.random.default_rng(0)
    theta = {n: draws.standard_normal((3, 5)).astype(np.float32) for n in names}
    masks = {n: draws.random((3, 5)) < 0.5 for n in names[::2]}
    trained = {n: draws.random((3, 5)) < 0.5 for n in names[::2]}
    record = {"weighting": {"weights": {"b": 0.1 + 0.2, "a": 0.7}}, "rounds": [1, None, True, "é"]}
    tensors = {
        "momentum/layer.weight": draws.standard_normal((2, 3)).astype(np.float32),
        "scores": draws.integers(0, 9, 4, dtype=np.int64),
    }
    return RunState(ModelState(theta, masks, trained), Memory(record, tensors))


@pytest.mark.parametrize("seed", range(5))
def test_state_comes_back_bit_for_bit_and_in_order(seed: int) -> None:
    names = [f"layer{n}.weight" for n in np.random.default_rng(seed).permutation(20)]
    state = _state(names)
    found = decode_state(encode_state(state))
    assert list(found.model.theta) == names
    assert list(found.model.masks) == list(found.model.trained) == names[::2]
    assert found.memory.record == state.memory.record
    assert list(found.memory.record["weighting"]["weights"]) == ["b", "a"]
    assert {n: (t.dtype, t.shape, t.tobytes()) for n, t in found.memory.tensors.items()} == {
        n: (t.dtype, t.shape, t.tobytes()) for n, t in state.memory.tensors.items()
    }
    for kind in ("theta", "masks", "trained"):
        expected = getattr(state.model, kind)
        assert {n: a.tobytes() for n, a in getattr(found.model, kind).items()} == {
            n: a.tobytes() for n, a in expected.items()
        }


def test_equal_states_give_equal_bytes() -> None:
    assert encode_state(_state(["b", "a", "c"])) == encode_state(_state(["b", "a", "c"]))


def test_blob_that_is_no_state_is_refused() -> None:
    with pytest.raises(RemoteWireError, match="not a state blob"):
        decode_state(encode_tensors({"x": np.zeros(3, np.float32)}))
