"""The layout of the sparse operators in numpy, and one operator as a session: what tests of the kernels stand on."""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

LIBRARY: Path = pytest.importorskip("espalier_kernels").LIBRARY
DOMAIN = "espalier"
_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32}
_TYPES[np.dtype(np.int64)] = TensorProto.INT64


@functools.cache
def lanes() -> int:
    """How many images lie side by side in this process."""
    return int(ctypes.CDLL(str(LIBRARY)).espalier_kernels_lanes())


@dataclass(frozen=True)
class Map:
    """The geometry of an activation: channels, height, width, and the zeros around it."""

    channels: int
    height: int
    width: int
    rows: int = 0
    columns: int = 0

    @property
    def attribute(self) -> list[int]:
        """What operators are told."""
        return [self.channels, self.height, self.width, self.rows, self.columns]

    def pack(self, x: np.ndarray) -> np.ndarray:
        """[N, C, H, W] in the layout; missing images are zeros."""
        n, wide = lanes(), self.width + self.columns
        tiles = -(-len(x) // n)
        full = np.zeros((tiles * n, *x.shape[1:]), np.float32)
        full[: len(x)] = x
        grid = np.zeros((tiles, self.channels, self.height + 2 * self.rows, wide, n), np.float32)
        split = full.reshape(tiles, n, self.channels, self.height, self.width).transpose(0, 2, 3, 4, 1)
        grid[:, :, self.rows : self.rows + self.height, self.columns :] = split
        flat = grid.reshape(tiles, -1, n)
        return np.concatenate([flat, np.zeros((tiles, self.columns, n), np.float32)], axis=1)

    def unpack(self, packed: np.ndarray, count: int) -> np.ndarray:
        """The first `count` images; fails unless the halo is zero."""
        again = self.pack(self._all(packed))
        np.testing.assert_array_equal(packed, again)
        return self._all(packed)[:count]

    def _all(self, packed: np.ndarray) -> np.ndarray:
        tiles, _, n = packed.shape
        cells = self.channels * (self.height + 2 * self.rows) * (self.width + self.columns)
        grid = packed[:, :cells].reshape(tiles, self.channels, self.height + 2 * self.rows, -1, n)
        inner = grid[:, :, self.rows : self.rows + self.height, self.columns :]
        return np.ascontiguousarray(inner.transpose(0, 4, 1, 2, 3).reshape(tiles * n, *self._shape))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def session(operator: str, inputs: Mapping[str, np.ndarray | None], outputs: int, /, **attributes: Any) -> Any:
    """A session of one operator; an input that is None is left out."""
    given = {name: value for name, value in inputs.items() if value is not None}
    names = [name if value is not None else "" for name, value in inputs.items()]
    while names and not names[-1]:
        names.pop()
    node = helper.make_node(operator, names, [f"y{i}" for i in range(outputs)], domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    infos = [helper.make_tensor_value_info(n, _TYPES[v.dtype], [None] * v.ndim) for n, v in given.items()]
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "one", infos, results), opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(
    operator: str, inputs: Mapping[str, np.ndarray | None], outputs: int = 1, /, **attributes: Any
) -> list[np.ndarray]:
    """The outputs of one operator."""
    made = session(operator, inputs, outputs, **attributes)
    found: list[np.ndarray] = made.run(None, {n: v for n, v in inputs.items() if v is not None})
    return found


def stamp(number: int) -> np.ndarray:
    """A stamp, as operators take it."""
    return np.array(number, dtype=np.int64)


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    """Equal up to rounding, relative to the largest expected number."""
    assert found.shape == expected.shape
    size = float(np.abs(expected).max(initial=0.0)) or 1.0
    assert np.abs(found - expected).max(initial=0.0) <= tolerance * size


def windows(x: np.ndarray, kernel: Sequence[int], stride: Sequence[int], before: Sequence[int],
            dilation: Sequence[int], places: Sequence[int]) -> np.ndarray:  # fmt: skip
    """Every window of a zero-padded map: [N, C, places..., kernel...], double precision."""
    high, wide = ((p - 1) * s + (k - 1) * d + 1 for p, s, k, d in zip(places, stride, kernel, dilation, strict=True))
    full = np.zeros((*x.shape[:2], max(high, before[0] + x.shape[2]), max(wide, before[1] + x.shape[3])))
    full[:, :, before[0] : before[0] + x.shape[2], before[1] : before[1] + x.shape[3]] = x
    down = np.arange(places[0])[:, None] * stride[0] + np.arange(kernel[0]) * dilation[0]
    right = np.arange(places[1])[:, None] * stride[1] + np.arange(kernel[1]) * dilation[1]
    return full[:, :, down[:, None, :, None], right[None, :, None, :]]


def spread(g: np.ndarray, shape: tuple[int, ...], kernel: Sequence[int], stride: Sequence[int], before: Sequence[int],
           dilation: Sequence[int], places: Sequence[int]) -> np.ndarray:  # fmt: skip
    """The transpose of `windows`: g [N, C, places..., kernel...] added up over a map of `shape`."""
    index = np.arange(int(np.prod(shape[2:])), dtype=float).reshape(1, 1, *shape[2:]) + 1
    where = windows(index, kernel, stride, before, dilation, places).astype(np.int64).ravel()
    flat = np.zeros((*shape[:2], int(np.prod(shape[2:])) + 1))
    np.add.at(flat, (slice(None), slice(None), where), g.reshape(*shape[:2], -1))
    return flat[:, :, 1:].reshape(shape)
