"""A device's local data, from an .npz file, a folder of .npy files, or a user's Python callable."""

import importlib
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec, Loss
from device_runtime.wire.support import FloatArray

# What numpy raises for a file that is not, or no longer, what its name says.
_UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True, eq=False)
class LocalData:
    """Raw samples x[n, ...] (uint8, int16 or float) and labels y[n] (or float targets), as they were stored."""

    x: NDArray[Any]
    y: NDArray[Any]
    source: str

    def __len__(self) -> int:
        return len(self.x)


def load_local_data(source: str, x_name: str = "x", y_name: str = "y") -> LocalData:
    """Open `source`: a path ending in .npz, a folder with x.npy and y.npy, or `module:callable` giving (x, y).

    Raises UsageError naming the source when it is missing, malformed, or x and y differ in length.
    """
    path = Path(source)
    if path.is_dir():
        arrays: Mapping[str, NDArray[Any]] = {p.stem: _load_npy(p) for p in sorted(path.glob("*.npy"))}
    elif source.endswith(".npz"):
        arrays = load_npz(path)
    elif ":" in source and not path.exists():
        x, y = _call(source)
        arrays = {x_name: np.asarray(x), y_name: np.asarray(y)}
    else:
        raise UsageError(f"data {source!r} is neither an .npz file, a folder of .npy files, nor a module:callable.")
    for name in (x_name, y_name):
        if name not in arrays:
            raise UsageError(f"data {source!r} has no array {name!r}; it has: {', '.join(arrays) or 'nothing'}.")
    return checked(arrays[x_name], arrays[y_name], source)


def checked(x: NDArray[Any], y: NDArray[Any], source: str) -> LocalData:
    """The data, or UsageError when x and y cannot belong together."""
    if x.ndim < 2 or len(x) != len(y) or len(x) == 0:
        raise UsageError(f"data {source!r}: x{x.shape} and y{y.shape} need the same number of samples, at least one.")
    if x.dtype.kind not in "uif" or y.dtype.kind not in "uif":
        raise UsageError(f"data {source!r}: x is {x.dtype} and y is {y.dtype}; both must be numbers.")
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"data {source!r}: {name} has values that are not finite; clean the data first.")
    return LocalData(x, y, source)


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, never unpickling. Raises UsageError naming the file."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UsageError(f"data file {str(path)!r} holds a single array, not an .npz archive.")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"data file {str(path)!r} does not exist.") from None
    except _UNREADABLE as error:
        raise UsageError(f"data file {str(path)!r} cannot be read: {error}.") from error


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise UsageError(f"data file {str(path)!r} cannot be read: {error}.") from error
    if not isinstance(array, np.ndarray):
        raise UsageError(f"data file {str(path)!r} holds an archive, not a single array.")
    return array


def _call(source: str) -> tuple[Any, Any]:
    module_name, _, attribute = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's module lies in the current folder
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"data {source!r}: {error}.") from error
    if not callable(function):
        raise UsageError(f"data {source!r}: {attribute!r} is not callable.")
    result = function()
    if not isinstance(result, tuple) or len(result) != 2:
        raise UsageError(f"data {source!r} must return a pair (x, y).")
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Model-ready samples: x float32[n, *shape], y int64[n] or float32[n, outputs]."""

    x: FloatArray
    y: NDArray[np.int64] | FloatArray

    def __len__(self) -> int:
        return len(self.x)


def prepare(data: LocalData, spec: InputSpec, loss: Loss, class_count: int) -> Samples:
    """Apply the artifact's input specification to local data.

    Raises UsageError when shape or labels do not fit the model.
    """
    try:
        x = spec.apply(data.x)
    except ValueError:
        raise UsageError(
            f"data {data.source!r}: samples of shape {data.x.shape[1:]} do not fit the model's input {spec.shape}."
        ) from None
    if loss != "cross_entropy":
        return Samples(x, data.y.reshape(len(data.y), -1).astype(np.float32))
    given = data.y.reshape(-1)
    labels = given.astype(np.int64)
    if len(labels) != len(x) or labels.min() < 0 or labels.max() >= class_count or (labels != given).any():
        raise UsageError(f"data {data.source!r}: labels must be one class number in [0, {class_count}) per sample.")
    return Samples(x, labels)


def batches(samples: Samples, batch_size: int, draws: Draws) -> Iterator[Samples]:
    """One epoch in the order of `draws`; the last batch may be smaller, no sample is left out."""
    order = draws.permutation(len(samples))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield Samples(samples.x[chosen], samples.y[chosen])
