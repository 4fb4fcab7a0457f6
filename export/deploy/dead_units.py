"""Units that no longer matter are cut out: nothing reads them, or what they say is a constant.

Pruning leaves neurons and channels whose outgoing weights are all zero: they go, with their incoming weights. Others
have lost their incoming weights: they say act(bias) whatever the input is, and every layer that reads them takes that
times its weight into its own bias. Both make the graph truly smaller without changing what it computes.

A unit stays when a layer that reads it cannot take over its constant: a convolution with padding sees zeros beyond the
border, so only the constant zero passes there (with ReLU, that is every unit with a bias below zero).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.deploy.constant_channels import Channels, absorbable, constant_channels
from export.deploy.net import Layer, Net, Shape
from export.deploy.simplify import put_weights
from export.deploy.units import BINARY, PER_CHANNEL, Units, by_out_and_in, contractions, is_depthwise, units_of


@dataclass(frozen=True, slots=True)
class Cut:
    """What was cut from one layer: its units before and after."""

    layer: str
    before: int
    after: int


def cut_dead_units(net: Net) -> tuple[Cut, ...]:
    """Cut all dead units from a simplified net, in place; gives what was cut, in graph order.

    Every layer keeps at least one unit. The output is the same but for the order in which sums are rounded.
    """
    before = {layer.name: _out_count(net, layer) for layer in contractions(net)}
    while _cut_once(net):
        pass
    after = {layer.name: _out_count(net, layer) for layer in contractions(net)}
    return tuple(Cut(name, count, after.get(name, 0)) for name, count in before.items() if after.get(name, 0) != count)


def _out_count(net: Net, layer: Layer) -> int:
    return len(net.constants[layer.inputs[2]])


def _cut_once(net: Net) -> bool:
    shapes = net.shapes()
    units = units_of(net, shapes)
    constants = constant_channels(net, shapes)
    alive = _alive(net, units, constants, shapes)
    keeps = {value: alive[units.of(value)] for value in units.ids}
    if all(keep.all() for keep in keeps.values()):
        return False
    for layer in net.layers:
        _cut_layer(net, layer, keeps, constants, shapes)
    net.drop_unused()
    return True


def _alive(net: Net, units: Units, constants: dict[str, Channels], shapes: dict[str, Shape]) -> NDArray[np.bool_]:
    """Which units must stay: the least set that holds the fixed ones and all that a living unit reads."""
    alive = np.zeros(units.count, dtype=np.bool_)
    alive[list(units.fixed)] = True
    readers = []
    for layer in contractions(net):
        value = layer.inputs[0]
        constant = constants.get(value, np.full(shapes[value][1], np.nan))
        carries = by_out_and_in(layer, net.constants[layer.inputs[1]]).any(axis=2) & ~absorbable(layer, constant)
        readers.append((carries, units.of(value), units.of(layer.output)))
    while True:
        count = np.count_nonzero(alive)
        for carries, ids_in, ids_out in reversed(readers):
            if not alive[ids_out].any():
                alive[ids_out[0]] = True  # a layer without any output is none
            alive[ids_in[carries[alive[ids_out]].any(axis=0)]] = True
            if not alive[ids_in].any():
                alive[ids_in[0]] = True
        if np.count_nonzero(alive) == count:
            return alive


def _cut_layer(
    net: Net,
    layer: Layer,
    keeps: dict[str, NDArray[np.bool_]],
    constants: dict[str, Channels],
    shapes: dict[str, Shape],
) -> None:
    keep_out = keeps.get(layer.output)
    if keep_out is None:
        return
    if is_depthwise(net, layer):
        if not keep_out.all():
            weight, bias = (net.constants[v] for v in layer.inputs[1:])
            put_weights(net, layer, weight[keep_out], bias[keep_out])
            layer.set("group", int(np.count_nonzero(keep_out)))
    elif any(layer is other for other in contractions(net)):
        keep_in = keeps[layer.inputs[0]]
        if not (keep_in.all() and keep_out.all()):
            _cut_contraction(net, layer, keep_in, keep_out, constants.get(layer.inputs[0]))
    elif layer.op in BINARY | PER_CHANNEL and not keep_out.all():
        for position, value in enumerate(layer.inputs):
            if value in net.constants:
                sliced = _slice(net.constants[value], shapes[layer.output], keep_out, layer.op == "BatchNormalization")
                layer.inputs[position] = net.add_constant(f"{layer.name}.kept", sliced)


def _cut_contraction(
    net: Net, layer: Layer, keep_in: NDArray[np.bool_], keep_out: NDArray[np.bool_], constants: Channels | None
) -> None:
    weight, bias = (net.constants[v] for v in layer.inputs[1:])
    total = bias.astype(np.float64)
    if constants is not None:
        taken = np.where(absorbable(layer, constants) & ~keep_in, np.nan_to_num(constants), 0.0)
        total = total + by_out_and_in(layer, weight).sum(axis=2, dtype=np.float64) @ taken
    rows, columns = (keep_in, keep_out) if layer.op == "ConvTranspose" else (keep_out, keep_in)
    put_weights(net, layer, weight[rows][:, columns], total[keep_out])


def _slice(
    constant: NDArray[np.float32], shape: Shape, keep: NDArray[np.bool_], is_vector: bool
) -> NDArray[np.float32]:
    """The part of a constant operand that goes with the kept channels of a value of `shape`."""
    axis = 0 if is_vector else constant.ndim - (len(shape) - 1)
    if axis < 0 or constant.shape[axis] != len(keep) or len(keep) == 1:
        return constant
    return np.compress(keep, constant, axis=axis)
