"""Rules of operators that move elements without changing them."""

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
    """A box of x, perhaps with steps: g with zeros around it, and between its elements where there is a step.

    Along an axis with a step, one zero is put behind g, and gathering by a constant table reads it wherever x was left
    out.
    """
    shape = tape.shape(node.x)
    pads = np.zeros((2, len(shape)), dtype=np.int64)
    tables: dict[int, np.ndarray] = {}
    for axis, (start, stop, step) in _ranges(tape, node, shape).items():
        length = _fixed(node, shape[axis])
        taken = range(*slice(start, stop, step).indices(length))
        if step == 1:
            pads[:, axis] = (taken.start, length - taken.stop) if len(taken) else (0, length)
        else:
            pads[1, axis] = 1
            tables[axis] = np.full(length, len(taken), dtype=np.int64)
            tables[axis][list(taken)] = np.arange(len(taken))
    result = tape.op("Pad", node.gradient, pads.ravel()) if pads.any() else node.gradient
    for axis, table in tables.items():
        result = tape.op("Gather", result, table, axis=axis)
    return [result]


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


@rule("Pad")
def pad(tape: Tape, node: Applied) -> Gradients:
    """Constants around x (negative: x cut): the part of g that x fills, with zeros where x was cut."""
    if node.text("mode", "constant") != "constant":
        raise node.refuse(f"pads in mode {node.text('mode', '')}", "pad with constants")
    amounts, axes = tape.known(node.input(1)), tape.known(node.optional(3))
    if amounts is None or (axes is None and node.optional(3) is not None):
        raise node.refuse("pads by an amount that is not constant", "export the model with fixed sizes but the batch")
    rank = len(tape.shape(node.x))
    pads = np.zeros((2, rank), dtype=np.int64)
    pads[:, range(rank) if axes is None else axes % rank] = amounts.reshape(2, -1)
    added, cut = np.maximum(pads, 0), np.maximum(-pads, 0)
    result = node.gradient
    if added.any():
        ends = np.where(added[1] > 0, -added[1], np.iinfo(np.int64).max)
        result = tape.op("Slice", result, added[0], ends, list(range(rank)))
    return [tape.op("Pad", result, cut.ravel()) if cut.any() else result]


@rule("Gather")
def gather(tape: Tape, node: Applied) -> Gradients:
    """Rows of x along an axis: g added to zeros at the rows it came from, as often as they were taken.

    The zeros are scattered to element by element, because ScatterND's additions race in some versions.
    """
    axis = node.integer("axis", 0) % len(tape.shape(node.x))
    rows = node.input(1)
    lead, behind = axis, len(tape.shape(node.x)) - axis - 1
    picked = len(tape.shape(rows))
    g = node.gradient
    # One axis in place of all axes of the indices, and the indices repeated along all other axes.
    if picked != 1:
        shape = tape.shape(node.y)
        sizes = [0] * lead + [-1] + [_fixed(node, n) for n in shape[lead + picked :]]
        g = tape.op("Reshape", g, sizes)
    index = tape.op("Reshape", tape.op("Cast", rows, to=int(ir.DataType.INT64)), [1] * lead + [-1] + [1] * behind)
    index = tape.op("Expand", index, tape.op("Shape", g))
    return [tape.op("ScatterElements", zeros_like(tape, node.x), index, g, axis=axis, reduction="add"), None]


def zeros_like(tape: Tape, value: ir.Value) -> ir.Value:
    """Zeros of the shape and type of `value`."""
    assert value.dtype is not None
    zero = ir.tensor(np.zeros(1, dtype=value.dtype.numpy()))
    return tape.op("ConstantOfShape", tape.op("Shape", value), value=zero)


def _fixed(node: Applied, length: Dim) -> int:
    if isinstance(length, str):
        raise node.refuse(f"needs an axis of fixed length and gets {length}", "fix every axis but the batch")
    return length
