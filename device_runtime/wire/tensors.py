"""Named tensors as bytes and back: safetensors layout, byte-shuffled, in one bounded zstd frame.

The layout is described byte by byte in FORMAT.md. Equal tensors give equal bytes, so a blob's SHA-256 names its
content.
"""

import struct
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from device_runtime.wire import limits
from device_runtime.wire.errors import LocalWireError, RemoteWireError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"ESPT"
FORMAT_VERSION = 1
_PREFIX = struct.Struct("<4sBxxxQ")
_DTYPES = frozenset({"float32", "float16", "int64", "int8", "uint8"})

Tensor = NDArray[Any]


def _shuffle(array: Tensor) -> Tensor:
    """The same array with its bytes regrouped by significance, which compresses better."""
    width = array.dtype.itemsize
    if width == 1 or array.size == 0:
        return array
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, width).T
    return np.ascontiguousarray(planes).reshape(-1).view(array.dtype).reshape(array.shape)


def _unshuffle(array: Tensor) -> Tensor:
    """The inverse of `_shuffle`."""
    width = array.dtype.itemsize
    if width == 1 or array.size == 0:
        return array
    planes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(width, -1).T
    return np.ascontiguousarray(planes).reshape(-1).view(array.dtype).reshape(array.shape)


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Named arrays (float32, float16, int64, int8 or uint8) as one blob.

    Raises LocalWireError for a dtype, name, rank or count outside the limits.
    """
    if len(tensors) > limits.TENSOR_COUNT_MAX:
        raise LocalWireError(f"{len(tensors)} tensors exceed the limit of {limits.TENSOR_COUNT_MAX}")
    for name, array in tensors.items():
        if str(array.dtype) not in _DTYPES:
            raise LocalWireError(f"tensor {name!r} has dtype {array.dtype}, which does not travel")
        if array.ndim > limits.TENSOR_DIMS_MAX or len(name.encode()) > limits.PARAMETER_NAME_BYTES_MAX:
            raise LocalWireError(f"tensor {name[:40]!r} has too many axes or too long a name")
    flat: bytes = safetensors.numpy.save({n: _shuffle(np.asarray(a, order="C")) for n, a in tensors.items()})
    return _PREFIX.pack(MAGIC, FORMAT_VERSION, len(flat)) + zstd.compress(flat, level=3)


def decode_tensors(data: bytes, *, decoded_bytes_max: int = limits.DECODED_BYTES_MAX) -> dict[str, Tensor]:
    """The arrays of a blob made by `encode_tensors`.

    Allocates at most `decoded_bytes_max` and a small constant. Raises RemoteWireError for anything malformed: bad
    magic, a lying size, a frame that inflates beyond its declared size, trailing bytes, a bad layout, a dtype that
    does not travel.
    """
    return {name: _unshuffle(array) for name, array in _parse(_inflate(data, decoded_bytes_max)).items()}


def _inflate(data: bytes, decoded_bytes_max: int) -> bytes:
    if len(data) < _PREFIX.size:
        raise RemoteWireError(f"a tensor blob of {len(data)} bytes is shorter than its prefix")
    magic, version, size = _PREFIX.unpack_from(data)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise RemoteWireError(f"not a tensor blob of format {FORMAT_VERSION}: it begins with {data[:5]!r}")
    if size > min(decoded_bytes_max, limits.DECODED_BYTES_MAX):
        raise RemoteWireError(f"a tensor blob declares {size} bytes, more than the {decoded_bytes_max} expected here")
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: limits.ZSTD_WINDOW_LOG_MAX}
    decompressor = zstd.ZstdDecompressor(options=options)
    try:
        flat: bytes = decompressor.decompress(data[_PREFIX.size :], max_length=size + 1)
    except zstd.ZstdError as error:
        raise RemoteWireError(f"a tensor blob does not decompress: {error}") from error
    if len(flat) != size or not decompressor.eof or decompressor.unused_data:
        raise RemoteWireError(f"a tensor blob declares {size} bytes and holds another number")
    return flat


def _parse(flat: bytes) -> dict[str, Tensor]:
    if len(flat) < 8 or int.from_bytes(flat[:8], "little") > limits.TENSOR_HEADER_BYTES_MAX:
        raise RemoteWireError("a tensor blob has a header beyond the limit")
    try:
        tensors: dict[str, Tensor] = safetensors.numpy.load(flat)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RemoteWireError(f"a tensor blob has a bad layout: {error}") from error
    if len(tensors) > limits.TENSOR_COUNT_MAX:
        raise RemoteWireError(f"a tensor blob holds {len(tensors)} tensors, more than {limits.TENSOR_COUNT_MAX}")
    for name, array in tensors.items():
        if str(array.dtype) not in _DTYPES or array.ndim > limits.TENSOR_DIMS_MAX:
            raise RemoteWireError(f"tensor {name[:40]!r} has dtype {array.dtype} and {array.ndim} axes: refused")
        if len(name.encode()) > limits.PARAMETER_NAME_BYTES_MAX:
            raise RemoteWireError("a tensor blob has a name beyond the limit")
    return tensors


def encode_files(files: Mapping[str, bytes]) -> bytes:
    """Named files (an artifact folder) as one blob."""
    return encode_tensors({name: np.frombuffer(data, dtype=np.uint8) for name, data in files.items()})


def decode_files(data: bytes) -> dict[str, bytes]:
    """The files of a blob made by `encode_files`.

    Raises RemoteWireError where `decode_tensors` does, and for a name that could leave its folder.
    """
    files = {}
    for name, array in decode_tensors(data).items():
        if array.dtype != np.uint8 or array.ndim != 1:
            raise RemoteWireError(f"{name[:40]!r} is not a file")
        if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise RemoteWireError(f"{name[:40]!r} is not a plain file name")
        files[name] = array.tobytes()
    return files
