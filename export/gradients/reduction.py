"""Rules of reductions: the gradient is stretched back over the axes that were reduced."""

import numpy as np
import onnx_ir as ir

from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Dim, Tape


def _axes(tape: Tape, node: Applied) -> list[int]:
    """The reduced axes, counted from the front."""
    rank = len(tape.shape(node.x))
    axes = node.integers("axes")
    given = tape.known(node.optional(1))
    if node.optional(1) is not None and given is None:
        raise node.refuse("reduces axes that are not constant", "give the axes as a constant")
    if given is not None:
        axes = given.tolist()
    if not axes:
        return [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in axes]


def _kept(tape: Tape, node: Applied, value: ir.Value, axes: list[int]) -> ir.Value:
    """`value`, of the output's shape, with the reduced axes as axes of length 1."""
    if node.integer("keepdims", 1) or not axes:
        return value
    return tape.op("Unsqueeze", value, sorted(axes))


def _stretched(tape: Tape, node: Applied, value: ir.Value) -> ir.Value:
    """`value` repeated to the shape of the input."""
    shape = tape.shape(node.x)
    fixed: list[int] = [n for n in shape if isinstance(n, int)]
    target = tape.constant(np.array(fixed, dtype=np.int64)) if len(fixed) == len(shape) else tape.op("Shape", node.x)
    return tape.op("Expand", value, target)


def _count(tape: Tape, node: Applied, axes: list[int]) -> ir.Value | float:
    """How many elements one output element was reduced from, as a number or a scalar value."""
    shape = tape.shape(node.x)
    count, open_axes = 1, []
    for axis in axes:
        length: Dim = shape[axis]
        if isinstance(length, str):
            open_axes.append(axis)
        else:
            count *= length
    if not open_axes:
        return float(count)
    lengths = tape.op("Gather", tape.op("Shape", node.x), open_axes, axis=0)
    total = tape.op("Mul", tape.op("ReduceProd", lengths, keepdims=0), count)
    return tape.cast_like(total, node.x)


@rule("ReduceSum")
def reduce_sum(tape: Tape, node: Applied) -> Gradients:
    """y = sum of x: g to every element."""
    return [_stretched(tape, node, _kept(tape, node, node.gradient, _axes(tape, node)))]


@rule("ReduceMean")
def reduce_mean(tape: Tape, node: Applied) -> Gradients:
    """y = mean of n elements: g / n to every element."""
    axes = _axes(tape, node)
    share = tape.op("Div", _kept(tape, node, node.gradient, axes), _count(tape, node, axes))
    return [_stretched(tape, node, share)]


@rule("ReduceSumSquare")
def reduce_sum_square(tape: Tape, node: Applied) -> Gradients:
    """y = sum of x²: 2 g x."""
    g = _kept(tape, node, node.gradient, _axes(tape, node))
    return [tape.op("Mul", node.x, tape.op("Mul", g, 2.0))]


@rule("ReduceL2")
def reduce_l2(tape: Tape, node: Applied) -> Gradients:
    """y = sqrt of the sum of x²: g x / y."""
    axes = _axes(tape, node)
    ratio = tape.op("Div", _kept(tape, node, node.gradient, axes), _kept(tape, node, node.y, axes))
    return [tape.op("Mul", node.x, ratio)]


@rule("ReduceL1")
def reduce_l1(tape: Tape, node: Applied) -> Gradients:
    """y = sum of |x|: g sign(x)."""
    return [tape.op("Mul", tape.op("Sign", node.x), _kept(tape, node, node.gradient, _axes(tape, node)))]


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(tape: Tape, node: Applied) -> Gradients:
    """y = ln sum of e^x: g e^(x - y)."""
    axes = _axes(tape, node)
    share = tape.op("Exp", tape.op("Sub", node.x, _kept(tape, node, node.y, axes)))
    return [tape.op("Mul", share, _kept(tape, node, node.gradient, axes))]


@rule("ReduceMax", "ReduceMin")
def reduce_extremum(tape: Tape, node: Applied) -> Gradients:
    """y = the largest of x: g to it, in equal shares where several are the largest, as torch's amax gives."""
    axes = _axes(tape, node)
    hit = tape.cast_like(tape.op("Equal", node.x, _kept(tape, node, node.y, axes)), node.x)
    share = tape.op("Div", _kept(tape, node, node.gradient, axes), tape.reduce("ReduceSum", hit, axes, keepdims=True))
    return [tape.op("Mul", hit, share)]
