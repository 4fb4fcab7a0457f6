"""Layers that take the maximum or the mean over windows or whole axes, and normalisation by such means."""

from collections.abc import Sequence

import numpy as np

from export.deploy.net import Layer
from export.deploy.units import reduced_axes
from export.tflite.layouts import stored_array, stored_axis, stored_shape
from export.tflite.windows import Window, pad_data, window_of
from export.tflite.writing import Pen, refuse

# What is known not to be below zero may be padded with zeros before a maximum is taken.
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"})
_KEEP_POSITIVE = ("RELU", "RELU6")


def write_max_pool(pen: Pen, layer: Layer) -> int:
    """MAX_POOL_2D. Where SAME does not serve, padding is written out: zeros behind an activation, else -float max."""
    window = _pool_window(pen, layer)
    fill = 0.0 if _not_negative(pen, layer.inputs[0]) else float(np.finfo(np.float32).min)
    tensor, padding, _ = pad_data(pen, layer, window, fill=fill)
    return _pool(pen, layer, "MAX_POOL_2D", tensor, padding, window)


def write_average_pool(pen: Pen, layer: Layer) -> int:
    """AVERAGE_POOL_2D. TFLite's SAME leaves padding out of the mean; padding that counts is written out."""
    window = _pool_window(pen, layer)
    counts = bool(layer.integer("count_include_pad", 0))
    if counts and window.padded:
        shape = stored_shape(pen.shape(layer, layer.inputs[0]))
        amounts = np.array([(0, 0), *zip(window.before, window.after, strict=True), (0, 0)])
        kept = tuple(n + int(p.sum()) for n, p in zip(shape, amounts, strict=True))
        inputs = [pen.tensor(layer), pen.integers(f"{layer.name}/pads", amounts)]
        tensor, padding = pen.emit("PAD", inputs, kept, layer, ("PadOptions", {})), "VALID"
    else:
        tensor, padding, _ = pad_data(pen, layer, window, fill=None)
    return _pool(pen, layer, "AVERAGE_POOL_2D", tensor, padding, window)


def _pool_window(pen: Pen, layer: Layer) -> Window:
    if len([v for v in layer.outputs if v]) != 1:
        refuse(layer, "it gives the places of the maxima too")
    shape = pen.shape(layer, layer.inputs[0])
    window = window_of(layer, tuple(layer.integers("kernel_shape")), len(shape))
    if window.dilations != (1, 1):
        refuse(layer, "it is dilated")
    size = stored_shape(shape)[1:3]
    if window.outputs((size[0], size[1])) != stored_shape(pen.shape(layer, layer.output))[1:3]:
        refuse(layer, "it rounds the number of windows up (ceil_mode)")
    return window


def _not_negative(pen: Pen, value: str) -> bool:
    maker = pen.net.producers().get(value)
    if maker is None:
        return False
    return maker.op in _NOT_NEGATIVE or maker.text("activation", "NONE") in _KEEP_POSITIVE


def _pool(pen: Pen, layer: Layer, code: str, tensor: int, padding: str, window: Window) -> int:
    options = {
        "padding": pen.choice("Padding", padding),
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": pen.activation(layer),
    }
    shape = stored_shape(pen.shape(layer, layer.output))
    return pen.emit(code, [tensor], shape, layer, ("Pool2DOptions", options))


def write_global_pool(pen: Pen, layer: Layer) -> int:
    """MEAN or REDUCE_MAX over height and width."""
    rank = len(pen.shape(layer, layer.inputs[0]))
    return reduce(pen, layer, pen.tensor(layer), _REDUCTIONS[layer.op], list(range(2, rank)))


def write_reduce(pen: Pen, layer: Layer) -> int:
    """MEAN, SUM or REDUCE_MAX over constant axes."""
    source = pen.shape(layer, layer.inputs[0])
    axes = reduced_axes(pen.net, layer, len(source))
    if axes is None or (layer.integer("noop_with_empty_axes", 0) and axes == list(range(len(source)))):
        refuse(layer, "its axes are not constant")
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(source))
    tensor = reduce(pen, layer, pen.tensor(layer), _REDUCTIONS[layer.op], axes)
    target = pen.shape(layer, layer.output)
    return tensor if target == kept else pen.rearrange(tensor, kept, target, layer)


_REDUCTIONS = {
    "GlobalAveragePool": "MEAN",
    "GlobalMaxPool": "REDUCE_MAX",
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
}


def reduce(pen: Pen, layer: Layer, tensor: int, code: str, axes: Sequence[int]) -> int:
    """A reduction over ONNX axes of the layer's input that keeps the axes, of length 1."""
    source = pen.shape(layer, layer.inputs[0])
    stored = sorted(stored_axis(axis, len(source)) for axis in axes)
    shape = tuple(1 if axis in stored else n for axis, n in enumerate(stored_shape(source)))
    inputs = [tensor, pen.integers(f"{layer.name}/axes", stored)]
    return pen.emit(code, inputs, shape, layer, ("ReducerOptions", {"keepDims": True}))


def write_normalisation(pen: Pen, layer: Layer) -> int:
    """InstanceNormalization, and LayerNormalization over the last axes, as means, differences and a root."""
    shape = pen.shape(layer, layer.inputs[0])
    rank = len(shape)
    axes = (
        list(range(2, rank))
        if layer.op == "InstanceNormalization"
        else list(range(layer.integer("axis", -1) % rank, rank))
    )
    if any(value not in pen.net.constants for value in layer.inputs[1:] if value):
        refuse(layer, "its scale or shift is computed")
    kept = stored_shape(shape)
    x = pen.tensor(layer)
    centred = combine(pen, layer, "SUB", x, reduce(pen, layer, x, "MEAN", axes), kept)
    variance = reduce(pen, layer, combine(pen, layer, "MUL", centred, centred, kept), "MEAN", axes)
    means = tuple(1 if i in {stored_axis(a, rank) for a in axes} else n for i, n in enumerate(kept))
    epsilon = pen.constant(f"{layer.name}/epsilon", np.array([layer.number("epsilon", 1e-5)], np.float32))
    root = pen.emit("RSQRT", [combine(pen, layer, "ADD", variance, epsilon, means)], means, layer)
    result = combine(pen, layer, "MUL", centred, root, kept)
    for code, position in (("MUL", 1), ("ADD", 2)):
        if layer.input_at(position):
            value = pen.net.constants[layer.inputs[position]]
            if layer.op == "InstanceNormalization":
                value = value.reshape(-1, *[1] * (rank - 2))
            result = combine(
                pen, layer, code, result, pen.constant(layer.inputs[position], stored_array(value, rank)), kept
            )
    return result


def combine(pen: Pen, layer: Layer, code: str, left: int, right: int, shape: tuple[int, ...]) -> int:
    """ADD, SUB, MUL or DIV of two tensors, without activation."""
    table = f"{code.capitalize()}Options"
    none = {"fusedActivationFunction": pen.choice("ActivationFunctionType", "NONE")}
    return pen.emit(code, [left, right], shape, layer, (table, none))
