"""Submodels, updates and supports as bytes: values on the support only, in fp32, fp16 or int8."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import LocalWireError, RemoteWireError
from device_runtime.wire.support import FloatArray, Kept, Support
from device_runtime.wire.tensors import Tensor, decode_tensors, encode_tensors

ValueType = Literal["fp32", "fp16", "int8"]

_DTYPE: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
_SCALE = "#scale"  # '#' cannot stand in a parameter name, see `check_parameter_name`
_INT8_MAX = 127
HEADER_BYTES_PER_TENSOR = 512


def check_parameter_name(name: str) -> None:
    """Raise LocalWireError for a name that would clash with a scale's."""
    if "#" in name:
        raise LocalWireError(f"parameter {name!r} has a '#' in its name, which is reserved; rename it")


def encode_kept(
    tensors: Mapping[str, Kept],
    value_types: Callable[[str], ValueType],
    draws_for: Callable[[str], Draws],
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> bytes:
    """Kept values as a blob; the supports are known to both ends and do not travel.

    `value_types` says how each tensor travels. int8 is symmetric with one float32 scale per tensor and stochastic
    rounding, floor(v / scale + u) with u from `draws_for(name)`, so that the expected value is exact.
    `beside` are tensors that travel as they are, under names with a '#'.
    Raises LocalWireError for non-finite values, or values beyond fp16.
    """
    flat: dict[str, Tensor] = {}
    for name, kept in tensors.items():
        check_parameter_name(name)
        if not np.isfinite(kept.values).all():
            raise LocalWireError(f"parameter {name!r} has values that are not finite: the training diverged")
        value_type = value_types(name)
        if value_type == "int8":
            flat[name], flat[name + _SCALE] = _quantise(kept.values, draws_for(name))
        else:
            with np.errstate(over="ignore"):
                flat[name] = kept.values.astype(_DTYPE[value_type])
            if not np.isfinite(flat[name]).all():
                raise LocalWireError(f"parameter {name!r} has values beyond the range of {value_type}; use fp32")
    return encode_tensors(flat | dict(beside))


def _quantise(values: FloatArray, draws: Draws) -> tuple[Tensor, FloatArray]:
    peak = np.float32(np.abs(values).max(initial=0.0))
    scale = peak / np.float32(_INT8_MAX) if peak > 0 else np.float32(1.0)
    if scale < np.finfo(np.float32).tiny:  # too few bits for a scale; nothing that small can be kept
        scale = np.float32(1.0)
    steps = np.floor(values.astype(np.float64) / float(scale) + draws.uniform(values.size))
    return np.clip(steps, -_INT8_MAX, _INT8_MAX).astype(np.int8), np.array([scale], dtype=np.float32)


def decode_kept(data: bytes, supports: Mapping[str, Support]) -> dict[str, Kept]:
    """The kept values of a blob, as float32 on the given supports, in the order of `supports`.

    Raises RemoteWireError for malformed bytes, a missing or surplus tensor, a wrong count or dtype, a value that is
    not finite.
    """
    return kept_of(decode_tensors(data, decoded_bytes_max=kept_bytes_max(supports)), supports)


def kept_bytes_max(supports: Mapping[str, Support]) -> int:
    """The most bytes that kept values on these supports can inflate to."""
    value_count = sum(s.count for s in supports.values())
    return 4 * value_count + HEADER_BYTES_PER_TENSOR * (2 * len(supports) + 1)


def kept_of(flat: Mapping[str, Tensor], supports: Mapping[str, Support]) -> dict[str, Kept]:
    """The kept values in the tensors of a blob; errors as `decode_kept`."""
    known = set(supports) | {n + _SCALE for n in supports if n in flat and flat[n].dtype == np.int8}
    if surplus := sorted(set(flat) - known):
        raise RemoteWireError(f"unknown tensor {surplus[0][:60]!r}")
    return {name: Kept(_values(name, flat, support.count), support) for name, support in supports.items()}


def _values(name: str, flat: Mapping[str, Tensor], count: int) -> FloatArray:
    values = flat.get(name)
    if values is None:
        raise RemoteWireError(f"tensor {name!r} is missing")
    if values.shape != (count,):
        raise RemoteWireError(f"tensor {name!r} has shape {values.shape} where {count} values were expected")
    if values.dtype not in _DTYPE.values():
        raise RemoteWireError(f"tensor {name!r} has dtype {values.dtype}")
    result = values.astype(np.float32)
    if values.dtype == np.int8:
        scale = flat.get(name + _SCALE)
        if scale is None or scale.shape != (1,) or scale.dtype != np.float32 or not scale[0] > 0:
            raise RemoteWireError(f"tensor {name!r} has no valid scale")
        with np.errstate(over="ignore", invalid="ignore"):
            result = result * scale[0]
    if not np.isfinite(result).all():
        raise RemoteWireError(f"tensor {name!r} has values that are not finite")
    return result


def encode_supports(supports: Mapping[str, Support]) -> bytes:
    """Element masks as a blob of packed bits; supports of kind "all" do not travel."""
    flat: dict[str, Tensor] = {}
    for name, support in supports.items():
        if support.kind == "axes":
            raise LocalWireError(f"parameter {name!r}: supports by axes do not travel in protocol 1")
        if support.mask is not None:
            flat[name] = packed_mask(support)
    return encode_tensors(flat)


def packed_mask(support: Support) -> Tensor:
    """The mask of a support as it travels: uint8, eight elements to a byte, in flat order."""
    return np.packbits(support.dense_mask().ravel())


def decode_supports(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Support]:
    """The supports of every tensor in `shapes`: the masks of the blob, everything where it has none.

    Raises RemoteWireError for malformed bytes, an unknown name, or a mask of the wrong size.
    """
    bound = sum(math.prod(shape) for shape in shapes.values()) + HEADER_BYTES_PER_TENSOR * (len(shapes) + 1)
    flat = decode_tensors(data, decoded_bytes_max=bound)
    if surplus := sorted(set(flat) - set(shapes)):
        raise RemoteWireError(f"a mask for the unknown tensor {surplus[0][:60]!r}")
    supports = {}
    for name, shape in shapes.items():
        packed = flat.get(name)
        if packed is None:
            supports[name] = Support.everything(shape)
            continue
        supports[name] = unpacked_mask(name, packed, shape)
    return supports


def unpacked_mask(name: str, packed: Tensor, shape: tuple[int, ...]) -> Support:
    """The support that a mask of tensor `name` describes. Raises RemoteWireError for one of the wrong size."""
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != ((count + 7) // 8,):
        raise RemoteWireError(f"the mask of {name!r} does not fit its shape {shape}")
    bits = np.unpackbits(packed)
    if bits[count:].any():
        raise RemoteWireError(f"the mask of {name!r} has bits beyond its {count} elements")
    return Support.from_mask(bits[:count].astype(np.bool_).reshape(shape))
