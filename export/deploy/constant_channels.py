"""Which channels of which values are constant whatever the input is: units that lost all their incoming weights.

A channel is constant when it is one number at every position of every sample; NaN stands for "not constant".
"""

import numpy as np
from numpy.typing import NDArray

from export.deploy.net import Layer, Net, Shape
from export.deploy.simplify import evaluate, is_plain
from export.deploy.units import BINARY, ELEMENTWISE, PER_CHANNEL, by_out_and_in, is_depthwise, reduced_axes

Channels = NDArray[np.float64]


def constant_channels(net: Net, shapes: dict[str, Shape]) -> dict[str, Channels]:
    """For every value with a channel axis, its channels' constants [C], NaN where a channel varies."""
    found: dict[str, Channels] = {}
    for layer in net.layers:
        shape = shapes.get(layer.output, ())
        if len(shape) < 2:
            continue
        values = _of_layer(net, layer, found, shapes)
        found[layer.output] = values if values is not None and len(values) == shape[1] else np.full(shape[1], np.nan)
    return found


def absorbable(layer: Layer, values: Channels) -> NDArray[np.bool_]:
    """Which constant channels a contraction can take into its bias: all, but behind padding only zeros.

    Padding puts zeros around the image, so at its border a constant is not the constant.
    """
    only_zero = layer.op == "ConvTranspose" or any(layer.integers("pads"))
    known: NDArray[np.bool_] = (values == 0) if only_zero else ~np.isnan(values)
    return known


def _of_layer(net: Net, layer: Layer, found: dict[str, Channels], shapes: dict[str, Shape]) -> Channels | None:
    data = [value for value in layer.inputs if value and value not in net.constants]
    if not data or any(len(shapes.get(v, ())) < 2 for v in data):
        return None
    inputs = [found.get(v, np.full(shapes[v][1], np.nan)) for v in data]
    if is_plain(net, layer):
        return _of_contraction(net, layer, inputs[0])
    if layer.op in ELEMENTWISE | PER_CHANNEL | BINARY:
        return _of_elementwise(net, layer, inputs, shapes)
    if layer.op == "Flatten":
        return np.repeat(inputs[0], int(np.prod(shapes[data[0]][2:])))
    if layer.op == "Concat" and layer.integer("axis", 0) == 1 and len(data) == len(layer.inputs):
        return np.concatenate(inputs)
    if layer.op in ("GlobalAveragePool", "GlobalMaxPool", "MaxPool"):
        # A maximum leaves padding out of account.
        return inputs[0]
    if layer.op == "AveragePool":
        exact = not any(layer.integers("pads")) and not layer.integer("ceil_mode", 0)
        return inputs[0] if exact else np.where(inputs[0] == 0, 0.0, np.nan)
    if layer.op == "ReduceMean":
        axes = reduced_axes(net, layer, len(shapes[data[0]]))
        return inputs[0] if axes is not None and min(axes) >= 2 else None
    return None


def _of_contraction(net: Net, layer: Layer, values: Channels) -> Channels | None:
    weight, bias = (net.constants[v] for v in layer.inputs[1:])
    if is_depthwise(net, layer):
        kernel = weight.reshape(len(weight), -1)
        none = ~kernel.any(axis=1)
        through = np.where(absorbable(layer, values), values, np.nan)
        return np.where(none, bias, bias + through * kernel.sum(axis=1, dtype=np.float64))
    if layer.integer("group", 1) != 1:
        return None
    kernel = by_out_and_in(layer, weight)
    carries = kernel.any(axis=2)
    known = absorbable(layer, values)
    sums = kernel.sum(axis=2, dtype=np.float64)
    total = bias + sums @ np.where(known, np.nan_to_num(values), 0.0)
    constant: Channels = np.where((carries & ~known).any(axis=1), np.nan, total)
    return constant


def _of_elementwise(net: Net, layer: Layer, inputs: list[Channels], shapes: dict[str, Shape]) -> Channels | None:
    """The operator applied to the constants themselves; a channel with an unknown operand stays unknown.

    All operands are laid out as [1, C, 1, ...], so a result that is broadcast over positions is no constant.
    """
    rank = len(shapes[layer.output])
    unknown = np.zeros(1, dtype=np.bool_)
    values, given = iter(inputs), []
    for name in (v for v in layer.inputs if v):
        if name in net.constants:
            given.append(net.constants[name])
            continue
        channels = next(values)
        unknown = unknown | np.isnan(channels)
        given.append(np.nan_to_num(channels).astype(np.float32).reshape(1, -1, *[1] * (rank - 2)))
    if unknown.all():
        return None
    with np.errstate(all="ignore"):
        (result, *_) = evaluate(layer, given, net.opset)
    if result.ndim != rank or any(length != 1 for axis, length in enumerate(result.shape) if axis != 1):
        return None
    constants: Channels = np.where(unknown, np.nan, result.ravel().astype(np.float64))
    return np.where(np.isfinite(constants), constants, np.nan)
