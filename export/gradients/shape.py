"""Rules of operators that move elements without changing them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.gradients.broadcasting import unbroadcast
from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Dim, Tape


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshaped(tape: Tape, node: Applied) -> Gradients:
    """The same elements in another shape: g in the shape of x."""
    return [tape.reshape_like(node.gradient, node.x)]


@rule("Identity")
def identity(tape: Tape, node: Applied) -> Gradients:
    """y = x: g."""
    return [node.gradient]


@rule("Cast")
def cast(tape: Tape, node: Applied) -> Gradients:
    """y = x in another float type: g in the type of x."""
    return [tape.cast_like(node.gradient, node.x)]


@rule("Dropout")
def dropout(tape: Tape, node: Applied) -> Gradients:
    """y = x outside training: g. In training y = x mask / (1 - ratio): g mask / (1 - ratio)."""
    training = tape.known(node.optional(2))
    if node.optional(2) is None or (training is not None and not training):
        return [node.gradient]
    ratio = tape.known(node.optional(1))
    if training is None or (ratio is None and node.optional(1) is not None):
        raise node.refuse("has a ratio or mode that is not constant", "export the model in evaluation mode")
    kept = tape.cast_like(node.output(1, ir.DataType.BOOL), node.x)
    return [tape.op("Mul", node.gradient, tape.op("Mul", kept, 1.0 / (1.0 - float(0.5 if ratio is None else ratio))))]


@rule("Transpose")
def transpose(tape: Tape, node: Applied) -> Gradients:
    """Permuted axes: g permuted back."""
    perm = node.integers("perm") or list(reversed(range(len(tape.shape(node.x)))))
    return [tape.op("Transpose", node.gradient, perm=[perm.index(i) for i in range(len(perm))])]


@rule("Expand")
def expand(tape: Tape, node: Applied) -> Gradients:
    """Broadcast to a shape: g summed over what was stretched."""
    return [unbroadcast(tape, node, node.gradient, tape.shape(node.y), node.x)]


@rule("Concat")
def concat(tape: Tape, node: Applied) -> Gradients:
    """Joined along an axis: g split there."""
    axis = node.integer("axis", 0)
    sizes = [_fixed(node, tape.shape(node.input(i))[axis]) for i in range(len(node.needed))]
    if len(sizes) == 1:
        return [node.gradient]
    return tape.ops("Split", len(sizes), node.gradient, sizes, axis=axis)


@rule("Split")
def split(tape: Tape, node: Applied) -> Gradients:
    """Parts along an axis: their gradients joined, zeros for a part that has none."""
    parts = []
    for output, gradient in zip(node.node.outputs, node.gradients, strict=True):
        parts.append(zeros_like(tape, output) if gradient is None else gradient)
    return [parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=node.integer("axis", 0))]


@rule("Slice")
def slice_(tape: Tape, node: Applied) -> Gradients:
    """A box of x, perhaps with steps: g put back into zeros, by Pad, and by scattering along axes with a step."""
    shape, result = tape.shape(node.x), node.gradient
    pads = np.zeros((2, len(shape)), dtype=np.int64)
    for axis, (start, stop, step) in _ranges(tape, node, shape).items():
        length = _fixed(node, shape[axis])
        taken = range(*slice(start, stop, step).indices(length))
        if step == 1:
            pads[:, axis] = (taken.start, length - taken.stop) if len(taken) else (0, length)
        else:
            result = _scatter_along(tape, result, list(taken), axis, length)
    return [tape.op("Pad", result, pads.ravel()) if pads.any() else result]


def _ranges(tape: Tape, node: Applied, shape: tuple[Dim, ...]) -> dict[int, tuple[int | None, int | None, int]]:
    """Per axis start, stop and step; axes that are taken whole are left out."""
    given = [tape.known(node.optional(i)) for i in range(1, 5)]
    starts, ends, axes, steps = given
    missing = any(known is None and node.optional(i) is not None for i, known in enumerate(given, start=1))
    if missing or starts is None or ends is None:
        raise node.refuse("has bounds that are not constant", "export the model with fixed sizes but the batch")
    axes = np.arange(len(starts)) if axes is None else axes % len(shape)
    steps = np.ones(len(starts), dtype=np.int64) if steps is None else steps
    found = {}
    for start, stop, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        whole = start == 0 and step == 1 and stop >= np.iinfo(np.int32).max
        if not whole:
            # Going backwards, a stop before the first element means past it, which python writes as None.
            length = shape[axis]
            before = step < 0 and isinstance(length, int) and stop < -length
            found[axis] = (start, None if before else stop, step)
    return found


def _scatter_along(tape: Tape, g: ir.Value, positions: Sequence[int], axis: int, length: int) -> ir.Value:
    """Zeros of `length` along `axis` that hold g at `positions`: g padded, then gathered in the right order."""
    count = len(positions)
    source = np.full(length, count, dtype=np.int64)
    source[list(positions)] = np.arange(count)
    pads = tape.constant(np.array([0, 1], dtype=np.int64))
    # One zero behind g along the axis, which every other position reads.
    padded = pad_axis(tape, g, axis, pads)
    return tape.op("Gather", padded, source, axis=axis)


def pad_axis(tape: Tape, x: ir.Value, axis: int, pads: ir.Value) -> ir.Value:
    """`x` with zeros before and behind along one axis, whatever its rank."""
    # The axis is brought to the front of a 2-D view, because Pad before opset 18 wants pads for every axis.
    raise NotImplementedError


@rule("Pad")
def pad(tape: Tape, node: Applied) -> Gradients:
    """Constants around x: the part of g that x fills."""
    raise NotImplementedError


def zeros_like(tape: Tape, value: ir.Value) -> ir.Value:
    """Zeros of the shape and type of `value`."""
    raise NotImplementedError


def _fixed(node: Applied, length: Dim) -> int:
    if isinstance(length, str):
        raise node.refuse(f"needs an axis of fixed length and gets {length}", "fix every axis but the batch")
    return length
