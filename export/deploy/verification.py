"""Two files compared on the same inputs: whether they compute the same, how fast, and in how much memory."""

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import FloatArray
from export.deploy.inspection import inspect_file
from export.deploy.measure import Cost, measure
from export.deploy.runners import open_runner
from export.deploy.samples import DataFile, Samples, drawn_samples, load_samples

FP32_TOLERANCE = 1e-5
# A quantised model of no labelled data may differ by a tenth of its output's root mean square.
INT8_TOLERANCE = 0.1
ACCURACY_LOSS_MAX = 0.01


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ: of fp32 the largest difference over the largest output; of int8 accuracy, or the RMS."""

    kind: Literal["fp32", "int8"]
    relative: float
    accuracy_loss: float = ACCURACY_LOSS_MAX


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two files. accuracy is None without labels, cost is None where it was not measured."""

    file: str
    kind: str
    dtype: str
    file_bytes: int
    compressed_bytes: int
    accuracy: float | None
    cost: Cost | None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison found; `failures` is empty when b does what a does.

    max_relative is max|a - b| / max|a|, rms_relative rms(a - b) / rms(a).
    """

    a: Side
    b: Side
    samples: str
    sample_count: int
    max_abs: float
    mean_abs: float
    max_relative: float
    rms_relative: float
    argmax_agreement: float | None
    tolerance: Tolerance
    failures: tuple[str, ...]


def default_tolerance(*dtypes: str) -> Tolerance:
    """int8's when either file is quantised, else fp32's."""
    if "int8" in dtypes:
        return Tolerance(kind="int8", relative=INT8_TOLERANCE)
    return Tolerance(kind="fp32", relative=FP32_TOLERANCE)


def verify(
    a: Path,
    b: Path,
    data: DataFile | None,
    *,
    tolerance: Tolerance | None = None,
    threads: int = 1,
    seconds: float = 0.5,
) -> Verification:
    """Run both files on the data (or on drawn inputs) and compare; seconds = 0 measures no cost.

    The data is normalised as the first file that says how says.

    Raises UsageError for files or data that cannot be used, and for models whose outputs differ in shape.
    """
    first, second = open_runner(a, threads), open_runner(b, threads)
    provenance = first.provenance or second.provenance
    shape = first.sample_shape if first.provenance or not second.provenance else second.sample_shape
    spec = provenance.input if provenance else None
    samples = drawn_samples(shape) if data is None else load_samples(data, spec, shape)
    left, right = first.run(samples.x), second.run(samples.x)
    if left.shape != right.shape:
        raise UsageError(f"{a} gives outputs {left.shape}, {b} {right.shape}: compare models of one task")
    return _judge(
        a=_side(a, left, samples, threads, seconds),
        b=_side(b, right, samples, threads, seconds),
        outputs=(left, right),
        samples=samples,
        tolerance=tolerance,
    )


def _side(path: Path, outputs: FloatArray, samples: Samples, threads: int, seconds: float) -> Side:
    found = inspect_file(path)
    return Side(
        file=path.name,
        kind=found.kind,
        dtype=found.weight_dtype,
        file_bytes=found.file_bytes,
        compressed_bytes=found.compressed_bytes,
        accuracy=_accuracy(outputs, samples.y),
        cost=measure(path, threads=threads, seconds=seconds) if seconds > 0 else None,
    )


def _accuracy(outputs: FloatArray, y: NDArray[np.int64] | None) -> float | None:
    if y is None or outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return float(np.mean(outputs.argmax(axis=1) == y))


def _judge(
    *, a: Side, b: Side, outputs: tuple[FloatArray, FloatArray], samples: Samples, tolerance: Tolerance | None
) -> Verification:
    left, right = (side.astype(np.float64) for side in outputs)
    difference = np.abs(left - right)
    classes = left.ndim == 2 and left.shape[1] > 1
    found = Verification(
        a=a,
        b=b,
        samples=samples.origin,
        sample_count=len(samples.x),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        max_relative=_ratio(float(difference.max()), float(np.abs(left).max())),
        rms_relative=_ratio(float(np.sqrt(np.mean(difference**2))), float(np.sqrt(np.mean(left**2)))),
        argmax_agreement=float(np.mean(left.argmax(axis=1) == right.argmax(axis=1))) if classes else None,
        tolerance=tolerance or default_tolerance(a.dtype, b.dtype),
        failures=(),
    )
    return msgspec.structs.replace(found, failures=failures(found))


def failures(found: Verification) -> tuple[str, ...]:
    """Why b cannot stand for a, in words; () when it can."""
    limit = found.tolerance
    if not np.isfinite(found.max_abs):
        return ("outputs are not finite",)
    if limit.kind == "fp32":
        if found.max_relative > limit.relative:
            return (
                f"the largest difference is {found.max_relative:.2g} of the largest output, over {limit.relative:g}",
            )
        return ()
    if found.a.accuracy is not None and found.b.accuracy is not None:
        loss = found.a.accuracy - found.b.accuracy
        if loss > limit.accuracy_loss + 1e-12:
            return (f"accuracy falls by {100 * loss:.2f} points, more than {100 * limit.accuracy_loss:g}",)
        return ()
    if found.rms_relative > limit.relative:
        return (f"the RMS difference is {found.rms_relative:.2g} of the output's, over {limit.relative:g}",)
    return ()


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:
        return 0.0
    return difference / size if size > 0 else float("inf")
