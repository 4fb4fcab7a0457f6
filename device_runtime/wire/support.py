"""Where a submodel tensor sits in its dense tensor, and the kept values that go with it."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import LocalWireError

FloatArray = NDArray[np.float32]
Params = Mapping[str, FloatArray]


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 of `data` as 64 hex digits: the name of every blob."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """Which elements of a dense tensor of `shape` a submodel keeps.

    kind "all": everything. "mask": the True elements of `mask`, in flat (C) order. "axes": the outer product of
    `indices`, one sorted int64 array per axis (a truly smaller tensor). `sha` names the support: equal supports
    have equal sha.
    """

    kind: Literal["all", "mask", "axes"]
    shape: tuple[int, ...]
    sha: str
    mask: NDArray[np.bool_] | None = None
    indices: tuple[NDArray[np.int64], ...] | None = None

    @staticmethod
    def everything(shape: tuple[int, ...]) -> "Support":
        """The support that keeps every element of `shape`."""
        return Support("all", shape, sha256_hex(f"all:{shape}".encode()))

    @staticmethod
    def from_mask(mask: NDArray[np.bool_]) -> "Support":
        """The support that keeps the True elements of a bool array."""
        if mask.dtype != np.bool_:
            raise LocalWireError(f"a mask must be a bool array, not {mask.dtype}")
        bits = np.packbits(mask.ravel()).tobytes()
        return Support("mask", mask.shape, sha256_hex(f"mask:{mask.shape}:".encode() + bits), mask=mask)

    @staticmethod
    def from_axes(shape: tuple[int, ...], indices: tuple[NDArray[np.int64], ...]) -> "Support":
        """The support that keeps, per axis, the given sorted indices of a tensor of `shape`."""
        if len(indices) != len(shape):
            raise LocalWireError(f"{len(indices)} index arrays for a tensor of {len(shape)} axes")
        for axis, (length, kept) in enumerate(zip(shape, indices, strict=True)):
            if kept.size and (kept[0] < 0 or kept[-1] >= length or np.any(np.diff(kept) <= 0)):
                raise LocalWireError(f"axis {axis}: indices must rise strictly within [0, {length})")
        text = f"axes:{shape}:".encode() + b"|".join(i.astype("<i8").tobytes() for i in indices)
        return Support("axes", shape, sha256_hex(text), indices=indices)

    @property
    def count(self) -> int:
        """How many elements are kept."""
        if self.kind == "mask":
            assert self.mask is not None
            return int(np.count_nonzero(self.mask))
        if self.kind == "axes":
            assert self.indices is not None
            return math.prod(len(i) for i in self.indices)
        return math.prod(self.shape)

    def gather(self, dense: FloatArray) -> FloatArray:
        """The kept values of a dense tensor, float32[count], in flat order."""
        if dense.shape != self.shape:
            raise LocalWireError(f"a tensor of shape {dense.shape} does not fit a support of shape {self.shape}")
        if self.kind == "mask":
            return dense[self.mask]
        if self.kind == "axes":
            assert self.indices is not None
            return dense[np.ix_(*self.indices)].ravel()
        return dense.ravel().copy()

    def scatter(self, values: FloatArray, fill: float = 0.0) -> FloatArray:
        """A dense float32 tensor with `values` on the support and `fill` elsewhere."""
        if values.shape != (self.count,):
            raise LocalWireError(f"{values.size} values do not fit a support of {self.count}")
        dense = np.full(self.shape, fill, dtype=np.float32)
        if self.kind == "mask":
            dense[self.mask] = values
        elif self.kind == "axes":
            assert self.indices is not None
            dense[np.ix_(*self.indices)] = values.reshape([len(i) for i in self.indices])
        else:
            dense[...] = values.reshape(self.shape)
        return dense

    def dense_mask(self) -> NDArray[np.bool_]:
        """The support as a bool array of the dense shape (True = kept)."""
        if self.kind == "mask":
            assert self.mask is not None
            return self.mask
        if self.kind == "axes":
            assert self.indices is not None
            mask = np.zeros(self.shape, dtype=np.bool_)
            mask[np.ix_(*self.indices)] = True
            return mask
        return np.ones(self.shape, dtype=np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A submodel tensor: the kept values, float32[k], and the support they sit on."""

    values: FloatArray
    support: Support

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.shape != (self.support.count,):
            raise LocalWireError(
                f"kept values must be float32[{self.support.count}], not {self.values.dtype}{self.values.shape}"
            )

    @staticmethod
    def of(dense: FloatArray, support: Support) -> "Kept":
        """The kept part of a dense tensor."""
        return Kept(support.gather(dense), support)

    def dense(self) -> FloatArray:
        """The tensor in its dense shape, zero off the support."""
        return self.support.scatter(self.values)


def cut(params: Params, supports: Mapping[str, Support]) -> dict[str, Kept]:
    """The submodel of `params` on `supports`; a tensor without a support is kept whole."""
    return {n: Kept.of(p, supports.get(n) or Support.everything(p.shape)) for n, p in params.items()}
