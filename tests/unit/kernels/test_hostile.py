"""What an operator is given is not believed: every misfit is an error from onnxruntime, and nothing is read amiss."""

from collections.abc import Mapping

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from tests.unit.kernels.layout import Map, lanes, run, stamp

REFUSALS = (Fail, InvalidArgument, RuntimeException)
X, Y = Map(2, 4, 4, 1, 1), Map(3, 4, 4)
SPEC = {"x": X.attribute, "y": Y.attribute, "kernel": [3, 3], "strides": [1, 1], "before": [1, 1], "dilations": [1, 1]}


def _feed(**changes: np.ndarray) -> dict[str, np.ndarray | None]:
    x = X.pack(np.ones((3, 2, 4, 4), np.float32))
    return {"x": x, "values": np.ones(2, np.float32), "kept": np.array([0, 53], np.int32), "stamp": stamp(1), **changes}


def _indices(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


FEEDS: Mapping[str, dict[str, np.ndarray]] = {
    "an index beyond the weight": {"kept": _indices(0, 54)},
    "an index below zero": {"kept": _indices(-1, 5)},
    "the largest index there is": {"kept": _indices(0, 2**31 - 1)},
    "the smallest index there is": {"kept": _indices(-(2**31), 5)},
    "indices that fall": {"kept": _indices(5, 4)},
    "an index twice": {"kept": _indices(5, 5)},
    "more indices than values": {"kept": _indices(1, 2, 3)},
    "values as a matrix": {"values": np.ones((1, 2), np.float32)},
    "indices as a scalar": {"kept": np.array(3, np.int32)},
    "two stamps": {"stamp": np.array([1, 2])},
    "no stamp": {"stamp": np.zeros(0, np.int64)},
    "an activation of two axes": {"x": np.zeros((3, 4), np.float32)},
    "an activation of another map": {"x": Map(2, 4, 5, 1, 1).pack(np.ones((3, 2, 4, 5), np.float32))},
    "an activation of other lanes": {"x": np.zeros((1, 55, lanes() + 1), np.float32)},
    "a bias of another length": {"bias": np.zeros(4, np.float32)},
}


@pytest.mark.parametrize("change", FEEDS.values(), ids=FEEDS)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(REFUSALS):
        run("Conv", _feed(**change), **SPEC)


ATTRIBUTES: Mapping[str, dict[str, object]] = {
    "no halo for the padding": {"x": [2, 4, 4, 0, 0]},
    "no halo for the rows behind": {"x": [2, 4, 4, 1, 1], "y": [3, 6, 4, 0, 0]},
    "a map of nothing": {"x": [2, 0, 4, 1, 1]},
    "a negative halo": {"x": [2, 4, 4, -1, 1]},
    "a map beyond all memory": {"x": [1 << 20, 1 << 20, 1 << 20, 1, 1]},
    "numbers beyond 32 bits": {"x": [2**40, 4, 4, 1, 1]},
    "too few numbers": {"x": [2, 4, 4]},
    "too many numbers": {"x": [2, 4, 4, 1, 1, 1, 1, 1, 1, 1]},
    "a stride of zero": {"strides": [0, 1]},
    "a dilation below zero": {"dilations": [1, -1]},
    "groups that do not divide": {"group": 2},
    "groups below one": {"group": 0},
    "an empty kernel": {"kernel": [0, 3]},
}


@pytest.mark.parametrize("change", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_geometries_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(REFUSALS):
        run("Conv", _feed(), **{**SPEC, **change})


def test_missing_attributes_are_refused() -> None:
    with pytest.raises(REFUSALS):
        run("Conv", _feed(), x=X.attribute)


def test_gradient_whose_windows_reach_beyond_its_halo_is_refused() -> None:
    dy = {"dy": Y.pack(np.ones((3, 3, 4, 4), np.float32)), **{k: v for k, v in _feed().items() if k != "x"}}
    with pytest.raises(REFUSALS):
        run("ConvInputGradient", dy, **SPEC, dy=Y.attribute, dx=X.attribute)


def test_batch_that_does_not_fit_the_tiles_is_refused() -> None:
    packed = X.pack(np.ones((3, 2, 4, 4), np.float32))
    for count in (0, lanes() + 1, 1000):
        with pytest.raises(REFUSALS):
            run("Unpack", {"x": packed, "batch": np.zeros((count, 1), np.float32)}, x=X.attribute, sample=[32])


def test_sample_of_another_size_is_refused() -> None:
    with pytest.raises(REFUSALS):
        run("Pack", {"x": np.zeros((3, 31), np.float32)}, y=X.attribute)
    with pytest.raises(REFUSALS):
        run("Dense", {k: v for k, v in _feed().items() if k != "x"}, shape=[6, 8])
