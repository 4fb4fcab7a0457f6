"""Layers that move elements without changing them, and the two that look across channels: Concat and Softmax."""

import math

import numpy as np

from export.deploy.net import Layer
from export.forward.form import OUTPUT
from export.tflite.layouts import stored_array, stored_axis, stored_shape
from export.tflite.writing import Pen, refuse

# Through these a flattened image may pass on its way to a fully connected layer: they do not look at the order.
_ORDERLESS = frozenset(
    {"Relu", "Sigmoid", "Tanh", "HardSwish", "Abs", "Neg", "Exp", "Sqrt", "LeakyRelu", "Elu", "Clip"}
)


def write_flatten(pen: Pen, layer: Layer) -> int:
    """RESHAPE alone where only fully connected layers read it: their weight is permuted instead of the data."""
    source, target = pen.shape(layer, layer.inputs[0]), pen.shape(layer, layer.output)
    positions = math.prod(source[2:])
    if len(source) in (3, 4) and source[1] > 1 and positions > 1 and _only_gemms(pen, layer.output):
        pen.flattened[layer.output] = (source[1], positions)
        return pen.reshape(pen.tensor(layer), target, layer)
    return pen.rearrange(pen.tensor(layer), source, target, layer)


def _only_gemms(pen: Pen, value: str) -> bool:
    readers = pen.net.consumers().get(value, [])
    if value == OUTPUT or not readers:
        return False
    return all(
        (reader.op == "Gemm" and reader.inputs[0] == value)
        or (reader.op in _ORDERLESS and _only_gemms(pen, reader.output))
        for reader in readers
    )


def write_reshape(pen: Pen, layer: Layer) -> int:
    """Reshape, Squeeze and Unsqueeze: RESHAPE, with a TRANSPOSE where channels change places."""
    source, target = pen.shape(layer, layer.inputs[0]), pen.shape(layer, layer.output)
    return pen.rearrange(pen.tensor(layer), source, target, layer)


def write_transpose(pen: Pen, layer: Layer) -> int:
    """TRANSPOSE of kept axes."""
    shape = pen.shape(layer, layer.inputs[0])
    rank = len(shape)
    order = layer.integers("perm") or list(reversed(range(rank)))
    kept = stored_shape(shape)
    # Place i of the result keeps ONNX axis kept_axes[i], which is axis order[...] of the data.
    kept_axes = sorted(range(rank), key=lambda axis: stored_axis(axis, rank))
    permutation = [stored_axis(order[axis], rank) for axis in kept_axes]
    if rank == 3:
        permutation.insert(1, 1)
    return pen.transpose(pen.tensor(layer), kept, permutation, layer)


def write_concat(pen: Pen, layer: Layer) -> int:
    """CONCATENATION."""
    target = pen.shape(layer, layer.output)
    axis = stored_axis(layer.integer("axis", 0), len(target))
    inputs = [
        pen.constant(value, stored_array(pen.net.constants[value], len(target)))
        if value in pen.net.constants
        else pen.tensor(layer, position)
        for position, value in enumerate(layer.inputs)
    ]
    none = pen.choice("ActivationFunctionType", "NONE")
    options = ("ConcatenationOptions", {"axis": axis, "fusedActivationFunction": none})
    return pen.emit("CONCATENATION", inputs, stored_shape(target), layer, options)


def write_softmax(pen: Pen, layer: Layer) -> int:
    """SOFTMAX or LOG_SOFTMAX over the axis that is kept last."""
    shape = pen.shape(layer, layer.output)
    kept = stored_shape(shape)
    if stored_axis(layer.integer("axis", -1), len(shape)) != len(kept) - 1:
        refuse(layer, f"it works over axis {layer.integer('axis', -1)}, and only the channels' can be written")
    if layer.op == "LogSoftmax":
        return pen.emit("LOG_SOFTMAX", [pen.tensor(layer)], kept, layer, ("LogSoftmaxOptions", {}))
    return pen.emit("SOFTMAX", [pen.tensor(layer)], kept, layer, ("SoftmaxOptions", {"beta": 1.0}))


def write_pad(pen: Pen, layer: Layer) -> int:
    """PAD, PADV2 or MIRROR_PAD."""
    mode = layer.text("mode", "constant")
    table = pen.net.constant(layer.input_at(1))
    if table is None or layer.input_at(3):
        refuse(layer, "its amounts are computed, or for some axes only")
    if table.min() < 0 or mode not in ("constant", "reflect"):
        refuse(layer, f"mode {mode!r} or negative padding has no equal there")
    shape = pen.shape(layer, layer.inputs[0])
    rank = len(shape)
    kept = stored_shape(pen.shape(layer, layer.output))
    amounts = np.zeros((len(kept), 2), dtype=np.int64)
    for axis in range(rank):
        amounts[stored_axis(axis, rank)] = table[axis], table[rank + axis]
    inputs = [pen.tensor(layer), pen.integers(f"{layer.name}/pads", amounts)]
    if mode == "reflect":
        options = ("MirrorPadOptions", {"mode": pen.choice("MirrorPadMode", "REFLECT")})
        return pen.emit("MIRROR_PAD", inputs, kept, layer, options)
    fill = pen.net.constant(layer.input_at(2)) if layer.input_at(2) else np.zeros(1)
    if fill is None:
        refuse(layer, "its value is computed")
    if float(fill.ravel()[0]) == 0.0:
        return pen.emit("PAD", inputs, kept, layer, ("PadOptions", {}))
    inputs.append(pen.constant(f"{layer.name}/fill", fill.astype(np.float32).reshape(1)))
    return pen.emit("PADV2", inputs, kept, layer, ("PadV2Options", {}))


def write_resize(pen: Pen, layer: Layer) -> int:
    """RESIZE_NEAREST_NEIGHBOR, of whole factors (torch's Upsample)."""
    source, target = (stored_shape(pen.shape(layer, v)) for v in (layer.inputs[0], layer.output))
    if len(source) != 4 or layer.text("mode", "nearest") != "nearest":
        refuse(layer, f"mode {layer.text('mode', 'nearest')!r} on {len(source)} axes has no equal there")
    if any(b % a for a, b in zip(source, target, strict=True)) or source[3] != target[3]:
        refuse(layer, f"it turns {source} into {target}, which is no whole factor of height and width")
    size = pen.integers(f"{layer.name}/size", target[1:3])
    options = ("ResizeNearestNeighborOptions", {"alignCorners": False, "halfPixelCenters": False})
    return pen.emit("RESIZE_NEAREST_NEIGHBOR", [pen.tensor(layer), size], target, layer, options)
