"""The inputs a comparison runs on: real samples of an .npz, or drawn ones where there are none."""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.support import FloatArray
from export.deploy.net import Shape

DRAWN_SAMPLES = 64
CALIBRATION_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Samples:
    """Model inputs float32 [N, *shape], channels first, normalised; class numbers [N] if known; where they are from."""

    x: FloatArray
    y: NDArray[np.int64] | None
    origin: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """An .npz of samples: which arrays to take ("" = by custom: x_test or x), and how many (0 = all)."""

    path: Path
    x: str = ""
    y: str = ""
    count: int = 0


def load_samples(source: DataFile, spec: InputSpec | None, shape: Shape, *, labelled: bool = True) -> Samples:
    """The samples of a file as model input: normalised by `spec` where there is one, else taken as they are.

    A smaller count than the file has takes samples evenly spread over it. labelled: look for class numbers too.

    Raises UsageError for a file that cannot be read, a missing array, or samples that do not fit `shape`.
    """
    arrays = _arrays(source.path)
    name_x = _choose(arrays, source.path, source.x, ("x_test", "x"))
    assert name_x is not None
    name_y = _choose(arrays, source.path, source.y, ("y_test", "y"), required=False) if labelled else None
    raw = arrays[name_x]
    picked = spread(len(raw), source.count)
    x = _as_input(raw[picked], spec, shape, f"{source.path}:{name_x}")
    y = None if name_y is None else arrays[name_y]
    if y is not None and len(y) != len(raw):
        raise UsageError(
            f"{source.path} has {len(raw)} samples in {name_x} and {len(y)} in {name_y}: give one per sample"
        )
    labels = None if y is None or y.ndim != 1 or y.dtype.kind not in "iu" else y[picked].astype(np.int64)
    return Samples(x, labels, f"{len(x)} of {source.path.name}:{name_x}")


def calibration_samples(source: DataFile, spec: InputSpec | None, shape: Shape) -> Samples:
    """Samples to find the ranges of activations with: of x_train where the file has it, so that no test sample counts.

    Raises UsageError as `load_samples` does.
    """
    chosen = "x_train" if "x_train" in _arrays(source.path) else source.x
    return load_samples(DataFile(source.path, chosen, "", CALIBRATION_SAMPLES), spec, shape, labelled=False)


def drawn_samples(shape: Shape, count: int = DRAWN_SAMPLES) -> Samples:
    """Standard normal samples of `shape`, the same ones every time."""
    values = Draws(0, "deploy.samples").normal(count * math.prod(shape)).astype(np.float32)
    return Samples(values.reshape(count, *shape), None, f"{count} drawn from N(0, 1)")


def class_names(path: Path) -> tuple[str, ...]:
    """The array `class_names` of a data file, () where it has none."""
    arrays = _arrays(path)
    return tuple(str(name) for name in arrays["class_names"]) if "class_names" in arrays else ()


def spread(length: int, count: int) -> NDArray[np.int64]:
    """`count` indices evenly spread over range(length), all of them where count is 0 or too large.

    >>> spread(10, 3)
    array([0, 3, 6])
    """
    if count <= 0 or count >= length:
        return np.arange(length)
    return np.arange(count) * length // count


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as .npz ({error}): give a file written by numpy.savez") from error


def _choose(
    arrays: Mapping[str, NDArray[Any]], path: Path, wanted: str, custom: tuple[str, ...], *, required: bool = True
) -> str | None:
    found = next((name for name in ([wanted] if wanted else custom) if name in arrays), None)
    if found is None and (required or wanted):
        looked = wanted or " or ".join(custom)
        raise UsageError(f"{path} has no array {looked}: it has {', '.join(arrays)}, name one with --x and --y")
    return found


def _as_input(raw: NDArray[Any], spec: InputSpec | None, shape: Shape, origin: str) -> FloatArray:
    try:
        x = raw.astype(np.float32) if spec is None else spec.apply(raw)
    except ValueError as error:
        raise UsageError(f"{origin} does not fit the model's input of {shape} ({error}): give raw samples") from error
    if x.shape[1:] != shape:
        raise UsageError(f"{origin} has samples of shape {x.shape[1:]}, the model takes {shape}: give data that fits")
    return np.ascontiguousarray(x)
