"""Rules of the normalisations.

All have y = s x^ + b with x^ = (x - mean) / sqrt(var + eps), the moments over some axes. With m(.) the mean over those
axes and h = g s, the gradient of x is (h - m(h) - x^ m(h x^)) / sqrt(var + eps) (Ioffe and Szegedy, arXiv 1502.03167).
"""

import onnx_ir as ir

from export.gradients.broadcasting import unbroadcast
from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Tape


@rule("BatchNormalization")
def batch_normalization(tape: Tape, node: Applied) -> Gradients:
    """Moments over all axes but the channels, or given from outside when not in training mode.

    In training mode its momentum must be 0, so that outputs 1 and 2 are the moments of this batch; `train_step` brings
    nodes into this form. The subtrahend m(g) + x^ m(g x^) is itself a batch normalisation of x, which onnxruntime
    computes in one pass.
    """
    axes = [0, *range(2, len(tape.shape(node.x)))]
    training = bool(node.integer("training_mode", 0))
    if training and (node.real("momentum", 0.9) != 0.0 or len(node.node.outputs) != 3):
        raise node.refuse("mixes the moments of the batch with older ones", "set its momentum to 0, with three outputs")
    mean, var = node.node.outputs[1:3] if training else (node.input(3), node.input(4))
    scale, g, epsilon = node.input(1), node.gradient, node.real("epsilon", 1e-5)
    inverse = _inverse_root(tape, var, epsilon)
    g_sum = tape.reduce("ReduceSum", g, axes, keepdims=False)
    gx_sum = tape.reduce("ReduceSum", tape.op("Mul", g, node.x), axes, keepdims=False)
    slope = tape.op("Mul", tape.op("Sub", gx_sum, tape.op("Mul", mean, g_sum)), inverse)
    centred = g
    if training:
        count = tape.op("Div", tape.op("Size", node.x), tape.op("Size", mean))
        share = tape.op("Reciprocal", tape.cast_like(count, node.x))
        moments = (tape.op("Mul", slope, share), tape.op("Mul", g_sum, share), mean, var)
        centred = tape.op("Sub", g, tape.op("BatchNormalization", node.x, *moments, epsilon=epsilon))
    factor = _behind_channels(tape, node, tape.op("Mul", scale, inverse))
    return [tape.op("Mul", centred, factor), slope, g_sum, None, None]


@rule("InstanceNormalization")
def instance_normalization(tape: Tape, node: Applied) -> Gradients:
    """Moments over the axes behind the channels, per sample."""
    flat = tape.op("Reshape", node.x, [0, 0, -1])
    g = tape.op("Reshape", node.gradient, [0, 0, -1])
    centred = tape.op("Sub", flat, tape.reduce("ReduceMean", flat, [2], keepdims=True))
    var = tape.reduce("ReduceMean", tape.op("Mul", centred, centred), [2], keepdims=True)
    inverse = _inverse_root(tape, var, node.real("epsilon", 1e-5))
    unit = tape.op("Mul", centred, inverse)
    product = tape.op("Mul", g, unit)
    scale = tape.op("Reshape", node.input(1), [-1, 1])
    left = _backward(tape, g, unit, product, tape.op("Mul", scale, inverse), [2])
    sums = [tape.reduce("ReduceSum", v, [0, 2], keepdims=False) for v in (product, g)]
    return [tape.reshape_like(left, node.x), *sums]


@rule("LayerNormalization")
def layer_normalization(tape: Tape, node: Applied) -> Gradients:
    """Moments over the last axes; the operator gives them as its second and third output."""
    shape = tape.shape(node.x)
    axis = node.integer("axis", -1) % len(shape)
    axes = list(range(axis, len(shape)))
    mean, inverse = (tape.cast_like(node.output(i, ir.DataType.FLOAT), node.x) for i in (1, 2))
    g = node.gradient
    unit = tape.op("Mul", tape.op("Sub", node.x, mean), inverse)
    scaled = tape.op("Mul", g, node.input(1))
    left = _backward(tape, scaled, unit, tape.op("Mul", scaled, unit), inverse, axes)
    right = unbroadcast(tape, node, tape.op("Mul", g, unit), shape, node.input(1))
    if node.optional(2) is None:
        return [left, right]
    return [left, right, unbroadcast(tape, node, g, shape, node.input(2))]


def _backward(
    tape: Tape, h: ir.Value, unit: ir.Value, product: ir.Value, factor: ir.Value, axes: list[int]
) -> ir.Value:
    """(h - m(h) - x^ m(product)) factor."""
    mean = tape.reduce("ReduceMean", h, axes, keepdims=True)
    along = tape.op("Mul", unit, tape.reduce("ReduceMean", product, axes, keepdims=True))
    return tape.op("Mul", tape.op("Sub", tape.op("Sub", h, mean), along), factor)


def _inverse_root(tape: Tape, var: ir.Value, epsilon: float) -> ir.Value:
    return tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", var, epsilon)))


def _behind_channels(tape: Tape, node: Applied, vector: ir.Value) -> ir.Value:
    """A value per channel, shaped to multiply x."""
    return tape.op("Reshape", vector, [-1] + [1] * (len(tape.shape(node.x)) - 2))
