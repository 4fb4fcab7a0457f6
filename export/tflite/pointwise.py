"""Layers that work element by element: activations, sums, products, and what is left of batch normalisation."""

import math

import numpy as np

from export.deploy.net import Layer
from export.deploy.simplify import channel_affine
from export.tflite.layouts import stored_array, stored_shape
from export.tflite.pooling import combine
from export.tflite.writing import Pen, refuse

# Operators that have one of the same meaning, with the name of their options.
UNARY = {
    "Relu": ("RELU", None),
    "Sigmoid": ("LOGISTIC", None),
    "Tanh": ("TANH", None),
    "HardSwish": ("HARD_SWISH", None),
    "Abs": ("ABS", "AbsOptions"),
    "Neg": ("NEG", "NegOptions"),
    "Exp": ("EXP", "ExpOptions"),
    "Sqrt": ("SQRT", None),
    "Log": ("LOG", None),
}
BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}
EXTREMES = {"Max": "MAXIMUM", "Min": "MINIMUM"}
_CLIPS = {(0.0, 6.0): "RELU6", (0.0, math.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}


def write_unary(pen: Pen, layer: Layer) -> int:
    """An activation or function with an equal of its own."""
    code, table = UNARY[layer.op]
    return _one(pen, layer, code, None if table is None else (table, {}))


def _one(pen: Pen, layer: Layer, code: str, options: tuple[str, dict[str, float]] | None = None) -> int:
    shape = stored_shape(pen.shape(layer, layer.output))
    return pen.emit(code, [pen.tensor(layer)], shape, layer, options)


def write_leaky_relu(pen: Pen, layer: Layer) -> int:
    """LEAKY_RELU."""
    return _one(pen, layer, "LEAKY_RELU", ("LeakyReluOptions", {"alpha": layer.number("alpha", 0.01)}))


def write_elu(pen: Pen, layer: Layer) -> int:
    """ELU, of alpha 1 only."""
    if layer.number("alpha", 1.0) != 1.0:
        refuse(layer, f"its alpha is {layer.number('alpha', 1.0):g}, and only 1 can be written")
    return _one(pen, layer, "ELU")


def write_gelu(pen: Pen, layer: Layer) -> int:
    """GELU, exact or by tanh."""
    return _one(pen, layer, "GELU", ("GeluOptions", {"approximate": layer.text("approximate", "none") == "tanh"}))


def write_prelu(pen: Pen, layer: Layer) -> int:
    """PRELU with a constant slope."""
    if layer.inputs[1] not in pen.net.constants:
        refuse(layer, "its slope is computed")
    shape = pen.shape(layer, layer.output)
    slope = stored_array(pen.net.constants[layer.inputs[1]], len(shape))[0]
    inputs = [pen.tensor(layer), pen.constant(layer.inputs[1], slope)]
    return pen.emit("PRELU", inputs, stored_shape(shape), layer)


def clip_bounds(pen_constants: dict[str, np.ndarray], layer: Layer) -> tuple[float, float] | None:
    """(least, greatest) of a Clip, None where a bound is computed.

    >>> clip_bounds({"six": np.array(6.0)}, Layer("Clip", "c", ["x", "", "six"], ["y"]))
    (-inf, 6.0)
    """
    bounds = [-math.inf, math.inf]
    for position in (1, 2):
        name = layer.input_at(position)
        if not name:
            continue
        if name not in pen_constants:
            return None
        bounds[position - 1] = float(pen_constants[name].ravel()[0])
    return bounds[0], bounds[1]


def write_clip(pen: Pen, layer: Layer) -> int:
    """RELU6 and its kin where the bounds are theirs, else MAXIMUM and MINIMUM."""
    bounds = clip_bounds(pen.net.constants, layer)
    if bounds is None:
        refuse(layer, "its bounds are computed")
    if bounds in _CLIPS:
        return _one(pen, layer, _CLIPS[bounds])
    shape = stored_shape(pen.shape(layer, layer.output))
    tensor = pen.tensor(layer)
    for code, bound in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True):
        if math.isfinite(bound):
            limit = pen.constant(f"{layer.name}/{code.lower()}", np.array([bound], np.float32))
            tensor = pen.emit(code, [tensor, limit], shape, layer, ("MaximumMinimumOptions", {}))
    return tensor


def write_hard_sigmoid(pen: Pen, layer: Layer) -> int:
    """clip(a x + b, 0, 1) as relu6(6 a x + 6 b) / 6."""
    a, b = layer.number("alpha", 0.2), layer.number("beta", 0.5)
    shape = stored_shape(pen.shape(layer, layer.output))
    scale, shift, sixth = (
        pen.constant(f"{layer.name}/{name}", np.array([value], np.float32))
        for name, value in (("scale", 6 * a), ("shift", 6 * b), ("sixth", 1 / 6))
    )
    scaled = combine(pen, layer, "MUL", pen.tensor(layer), scale, shape)
    six = ("AddOptions", {"fusedActivationFunction": pen.choice("ActivationFunctionType", "RELU6")})
    return combine(pen, layer, "MUL", pen.emit("ADD", [scaled, shift], shape, layer, six), sixth, shape)


def write_binary(pen: Pen, layer: Layer) -> int:
    """ADD, SUB, MUL, DIV; MAXIMUM and MINIMUM of two."""
    if len(layer.inputs) != 2:
        refuse(layer, f"it has {len(layer.inputs)} inputs, and only 2 can be written")
    target = pen.shape(layer, layer.output)
    inputs = [_operand(pen, layer, position, len(target)) for position in (0, 1)]
    if layer.op in EXTREMES:
        options: tuple[str, dict[str, int]] = ("MaximumMinimumOptions", {})
        code = EXTREMES[layer.op]
    else:
        code = BINARY[layer.op]
        options = (f"{code.capitalize()}Options", {"fusedActivationFunction": pen.activation(layer)})
    return pen.emit(code, inputs, stored_shape(target), layer, options)


def _operand(pen: Pen, layer: Layer, position: int, rank: int) -> int:
    """An input with as many axes as the output, so that broadcasting means the same there."""
    value = layer.inputs[position]
    shape = pen.shape(layer, value)
    tensor = pen.tensor(layer, position)
    if value in pen.net.constants or len(shape) == rank:
        return tensor
    return pen.rearrange(tensor, shape, (*[1] * (rank - len(shape)), *shape), layer)


def write_batch_norm(pen: Pen, layer: Layer) -> int:
    """Normalisation that could not be folded into a layer before it: MUL and ADD per channel."""
    shape = pen.shape(layer, layer.inputs[0])
    affine = channel_affine(pen.net, layer, shape)
    if affine is None:
        refuse(layer, "its statistics are computed")
    kept = stored_shape(shape)
    tensor = pen.tensor(layer)
    for code, vector in zip(("MUL", "ADD"), affine, strict=True):
        value = stored_array(vector.reshape(-1, *[1] * (len(shape) - 2)), len(shape))
        tensor = combine(pen, layer, code, tensor, pen.constant(f"{layer.name}/{code.lower()}", value), kept)
    return tensor
