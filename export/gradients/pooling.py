"""Rules of the poolings."""

import math

import numpy as np
import onnx_ir as ir

from export.gradients.registry import Applied, Gradients, rule
from export.gradients.shape import zeros_like
from export.gradients.tape import Tape
from export.gradients.windows import Windows, windows_of


def _windows(tape: Tape, node: Applied) -> Windows:
    kernel = node.integers("kernel_shape")
    if kernel is None:
        raise node.refuse("has no kernel_shape", "give a valid model")
    return windows_of(node, tuple(kernel), tape.shape(node.x)[2:], tape.shape(node.y)[2:])


@rule("MaxPool")
def max_pool(tape: Tape, node: Applied) -> Gradients:
    """y = the largest of each window: g to where it was found, the first of equal ones.

    Asking MaxPool for the positions costs ten times MaxPool itself in onnxruntime, so windows that tile the map are
    found again by comparison. For others the positions, which count over the whole tensor, say where each g is added.
    """
    if node.integer("storage_order", 0):
        raise node.refuse("counts positions column by column", "leave storage_order out")
    windows = _windows(tape, node)
    tiles = windows.kernel == windows.stride and not any(windows.before) and all(p <= 0 for p in windows.behind)
    if tiles and set(windows.dilation) == {1}:
        return [_to_first_largest(tape, node, windows)]
    indices = node.output(1, ir.DataType.INT64)
    flat = tape.op("Reshape", zeros_like(tape, node.x), [-1])
    found, g = tape.op("Reshape", indices, [-1]), tape.op("Reshape", node.gradient, [-1])
    return [tape.reshape_like(tape.op("ScatterElements", flat, found, g, axis=0, reduction="add"), node.x)]


def _to_first_largest(tape: Tape, node: Applied, windows: Windows) -> ir.Value:
    """For windows that tile the map: g repeated over each window, times 1 at the first largest element and 0 elsewhere.

    Every element that equals its window's maximum gets a rank that falls along the window; the highest rank is first.
    """
    rank, kernel = len(windows.kernel), list(windows.kernel)
    covered = [n * k for n, k in zip(windows.small, kernel, strict=True)]
    x = node.x
    if covered != list(windows.large):
        x = tape.op("Slice", x, [0] * rank, covered, list(range(2, rank + 2)))
    falling = np.arange(math.prod(kernel), 0, -1, dtype=node.dtype.numpy()).reshape(kernel)
    hit = tape.cast_like(tape.op("Equal", x, _repeated(tape, node.y, kernel)), x)
    ranked = tape.op("Mul", hit, np.tile(falling, windows.small))
    highest = tape.op("MaxPool", ranked, kernel_shape=kernel, strides=kernel)
    first = tape.cast_like(tape.op("Equal", ranked, _repeated(tape, highest, kernel)), x)
    result = tape.op("Mul", first, _repeated(tape, node.gradient, kernel))
    if x is node.x:
        return result
    rest = [n - c for n, c in zip(windows.large, covered, strict=True)]
    return tape.op("Pad", result, [0] * (rank + 2) + [0, 0, *rest])


def _repeated(tape: Tape, x: ir.Value, times: list[int]) -> ir.Value:
    """Every element repeated along the axes behind the channels (Resize does this far faster than Expand)."""
    scales = np.array([1, 1, *times], dtype=np.float32)
    asymmetric = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return tape.op("Resize", x, None, scales, mode="nearest", **asymmetric)


@rule("AveragePool")
def average_pool(tape: Tape, node: Applied) -> Gradients:
    """y = the mean of each window: g / count to all of it, by a transposed convolution with ones per channel."""
    windows = _windows(tape, node)
    if any(p < 0 and -p >= s for p, s in zip(windows.behind, windows.stride, strict=True)):
        raise node.refuse("leaves out a whole stride at the end", "change its pads")
    g = tape.op("Mul", node.gradient, _shares(node, windows).astype(node.dtype.numpy()))
    single = tape.op("Reshape", g, [-1, 1, *windows.small])
    ones = np.ones((1, 1, *windows.kernel), dtype=node.dtype.numpy())
    spread = tape.op(
        "ConvTranspose",
        single,
        ones,
        strides=list(windows.stride),
        dilations=list(windows.dilation),
        kernel_shape=list(windows.kernel),
        pads=[*windows.before, *(max(p, 0) for p in windows.behind)],
        output_padding=[max(-p, 0) for p in windows.behind],
    )
    return [tape.reshape_like(spread, node.x)]


def _shares(node: Applied, windows: Windows) -> np.ndarray:
    """[1, 1, windows...]: one over how many elements each window averages."""
    rank = len(windows.kernel)
    pads = node.integers("pads") or [0] * (2 * rank)
    counts = np.ones((1, 1), dtype=np.float64)
    for axis in range(rank):
        low, high = 0, windows.large[axis]
        if node.integer("count_include_pad", 0):
            low, high = -windows.before[axis], high + max(pads[rank + axis], 0)
        starts = np.arange(windows.small[axis]) * windows.stride[axis] - windows.before[axis]
        taps = starts[:, None] + np.arange(windows.kernel[axis]) * windows.dilation[axis]
        inside = ((taps >= low) & (taps < high)).sum(axis=1)
        counts = counts[..., None] * inside
    return 1.0 / counts


@rule("GlobalAveragePool")
def global_average_pool(tape: Tape, node: Applied) -> Gradients:
    """y = the mean over all axes behind the channels: g / count to every element."""
    shape = tape.shape(node.x)[2:]
    if any(isinstance(n, str) for n in shape):
        raise node.refuse("averages over an open axis", "fix every axis but the batch")
    share = tape.op("Mul", node.gradient, 1.0 / math.prod(int(n) for n in shape))
    return [tape.op("Expand", share, tape.op("Shape", node.x))]


@rule("GlobalMaxPool")
def global_max_pool(tape: Tape, node: Applied) -> Gradients:
    """y = the largest over all axes behind the channels: g to it, in equal shares where several are the largest."""
    axes = list(range(2, len(tape.shape(node.x))))
    hit = tape.cast_like(tape.op("Equal", node.x, node.y), node.x)
    share = tape.op("Div", node.gradient, tape.reduce("ReduceSum", hit, axes, keepdims=True))
    return [tape.op("Mul", hit, share)]
