"""Layers with weights: convolution plain, depthwise and grouped, transposed convolution, fully connected."""

import numpy as np

from export.deploy.net import Array, Layer
from export.deploy.simplify import is_plain
from export.tflite.layouts import stored_shape
from export.tflite.windows import Window, pad_data, size_of, window_of
from export.tflite.writing import Pen, refuse


def write_conv(pen: Pen, layer: Layer) -> int:
    """Conv as CONV_2D or DEPTHWISE_CONV_2D; other groups as SPLIT, a convolution each, CONCATENATION."""
    weight, bias = _weights(pen, layer)
    group = layer.integer("group", 1)
    window = window_of(layer, weight.shape[2:], weight.ndim)
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    tensor, padding, _ = pad_data(pen, layer, window)
    if group > 1 and weight.shape[1] == 1:
        return _depthwise(pen, layer, tensor, padding, window, weight, bias)
    if group > 1:
        return _grouped(pen, layer, tensor, padding, window, weight, bias)
    return _convolution(pen, layer, tensor, padding, window, weight, bias, len(weight))


def _weights(pen: Pen, layer: Layer) -> tuple[Array, Array]:
    if not is_plain(pen.net, layer):
        refuse(layer, "its weight is computed")
    return pen.net.constants[layer.inputs[1]], pen.net.constants[layer.inputs[2]]


def _convolution(
    pen: Pen, layer: Layer, tensor: int, padding: str, window: Window, weight: Array, bias: Array, channels: int
) -> int:
    """CONV_2D; TFLite's weight is [out, height, width, in]."""
    inputs = [
        tensor,
        pen.constant(layer.inputs[1], weight.transpose(0, 2, 3, 1)),
        pen.constant(layer.inputs[2], bias),
    ]
    shape = (*stored_shape(pen.shape(layer, layer.output))[:3], channels)
    return pen.emit("CONV_2D", inputs, shape, layer, ("Conv2DOptions", _options(pen, layer, padding, window)))


def _depthwise(pen: Pen, layer: Layer, tensor: int, padding: str, window: Window, weight: Array, bias: Array) -> int:
    """DEPTHWISE_CONV_2D; its weight is [1, height, width, out], outputs of one channel side by side as in ONNX."""
    inputs = [
        tensor,
        pen.constant(layer.inputs[1], weight[:, 0].transpose(1, 2, 0)[None]),
        pen.constant(layer.inputs[2], bias),
    ]
    options = _options(pen, layer, padding, window)
    options["depthMultiplier"] = len(weight) // layer.integer("group", 1)
    shape = stored_shape(pen.shape(layer, layer.output))
    return pen.emit("DEPTHWISE_CONV_2D", inputs, shape, layer, ("DepthwiseConv2DOptions", options))


def _grouped(pen: Pen, layer: Layer, tensor: int, padding: str, window: Window, weight: Array, bias: Array) -> int:
    group = layer.integer("group", 1)
    channels_out = len(weight) // group
    height, width = size_of(pen.shape(layer, layer.inputs[0]))
    if padding == "VALID":
        height, width = (n + p + q for n, p, q in zip((height, width), window.before, window.after, strict=True))
    part = (1, height, width, weight.shape[1])
    parts = [pen.flat.value(f"{layer.name}/part.{i}", part) for i in range(group)]
    axis = pen.integers(f"{layer.name}/axis", np.array(3))
    pen.flat.operator("SPLIT", [axis, tensor], parts, ("SplitOptions", {"numSplits": group}), 1)
    results = []
    for i, piece in enumerate(parts):
        rows = slice(i * channels_out, (i + 1) * channels_out)
        results.append(_convolution(pen, layer, piece, padding, window, weight[rows], bias[rows], channels_out))
    none = pen.choice("ActivationFunctionType", "NONE")
    options = ("ConcatenationOptions", {"axis": 3, "fusedActivationFunction": none})
    return pen.emit("CONCATENATION", results, stored_shape(pen.shape(layer, layer.output)), layer, options)


def _options(pen: Pen, layer: Layer, padding: str, window: Window) -> dict[str, int]:
    return {
        "padding": pen.choice("Padding", padding),
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": pen.activation(layer),
    }


def write_conv_transpose(pen: Pen, layer: Layer) -> int:
    """TRANSPOSE_CONV over everything the filters reach, then the part that ONNX's pads leave."""
    weight, bias = _weights(pen, layer)
    if layer.integer("group", 1) != 1:
        refuse(layer, "it has groups")
    window = window_of(layer, weight.shape[2:], weight.ndim)
    if window.dilations != (1, 1):
        refuse(layer, "it is dilated")
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    size = size_of(pen.shape(layer, layer.inputs[0]))
    target = stored_shape(pen.shape(layer, layer.output))
    full = tuple((n - 1) * s + k for n, s, k in zip(size, window.strides, window.kernel, strict=True))
    if any(p + n > f for p, n, f in zip(window.before, target[1:3], full, strict=True)):
        refuse(layer, "its output padding reaches beyond its filters")
    shape = (1, *full, target[3])
    inputs = [
        pen.integers(f"{layer.name}/output_shape", shape),
        pen.constant(layer.inputs[1], weight.transpose(1, 2, 3, 0)),
        pen.tensor(layer),
        pen.constant(layer.inputs[2], bias),
    ]
    options = {
        "padding": pen.choice("Padding", "VALID"),
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "fusedActivationFunction": pen.choice("ActivationFunctionType", "NONE"),
    }
    # Version 3 is the first with a bias.
    tensor = pen.emit("TRANSPOSE_CONV", inputs, shape, layer, ("TransposeConvOptions", options), version=3)
    if shape == target:
        return tensor
    begin = pen.integers(f"{layer.name}/begin", [0, *window.before, 0])
    return pen.emit(
        "SLICE", [tensor, begin, pen.integers(f"{layer.name}/size", target)], target, layer, ("SliceOptions", {})
    )


def write_gemm(pen: Pen, layer: Layer) -> int:
    """FULLY_CONNECTED; behind an image kept channels last, the weight's columns are permuted to match."""
    weight, bias = _weights(pen, layer)
    if layer.inputs[0] in pen.flattened:
        channels, positions = pen.flattened[layer.inputs[0]]
        weight = weight.reshape(-1, channels, positions).swapaxes(1, 2).reshape(len(weight), -1)
    inputs = [
        pen.tensor(layer),
        pen.constant(layer.inputs[1], np.ascontiguousarray(weight)),
        pen.constant(layer.inputs[2], bias),
    ]
    options = ("FullyConnectedOptions", {"fusedActivationFunction": pen.activation(layer)})
    return pen.emit("FULLY_CONNECTED", inputs, pen.shape(layer, layer.output), layer, options)
