"""Which channels of which values are one and the same unit, so that they stay or go together.

Every contraction makes new units, one per output channel. What works channel by channel hands them on, Flatten repeats
them once per position, Concat strings them together, and an Add makes the units of its two operands one. What an
operator does that is not known here is left alone: its inputs and outputs are fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.deploy.net import Layer, Net, Shape
from export.deploy.simplify import CONTRACTIONS, is_plain
from export.forward.form import INPUT, OUTPUT

Ids = NDArray[np.int64]

ELEMENTWISE = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
        "Softsign", "Gelu", "Erf", "Abs", "Neg", "Exp", "Sqrt", "ThresholdedRelu", "Mish",
    }
)  # fmt: skip
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
PER_CHANNEL = frozenset({"BatchNormalization", "PRelu"})


@dataclass(slots=True)
class Units:
    """`ids[value][c]` is the unit of channel c (axis 1); units in `fixed` must stay whatever their weights are."""

    ids: dict[str, Ids]
    fixed: set[int]
    _parents: list[int]

    def of(self, value: str) -> Ids:
        """The units of a value's channels, by their representatives."""
        return np.array([self._root(int(i)) for i in self.ids[value]], dtype=np.int64)

    @property
    def count(self) -> int:
        """How many ids there are."""
        return len(self._parents)

    def roots(self, ids: set[int]) -> set[int]:
        """The representatives of some ids."""
        return {self._root(i) for i in ids}

    def new(self, count: int) -> Ids:
        """Fresh units."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def join(self, left: Ids, right: Ids) -> None:
        """Make the units of two values one, channel by channel."""
        for a, b in zip(left, right, strict=True):
            first, second = sorted((self._root(int(a)), self._root(int(b))))
            self._parents[second] = first

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i


def units_of(net: Net, shapes: dict[str, Shape]) -> Units:
    """The units of a simplified net; input and output are fixed."""
    units = Units({}, set(), [])
    _fresh(units, INPUT, shapes, fixed=True)
    for layer in net.layers:
        data = [value for value in layer.inputs if value and value not in net.constants]
        if _hand_on(net, layer, data, units, shapes):
            continue
        contraction = is_plain(net, layer) and layer.integer("group", 1) == 1
        for value in layer.outputs:
            _fresh(units, value, shapes, fixed=not contraction)
        if not contraction:
            for value in data:
                units.fixed.update(int(i) for i in units.ids.get(value, ()))
    units.fixed.update(int(i) for i in units.ids.get(OUTPUT, ()))
    units.fixed = units.roots(units.fixed)
    return units


def _fresh(units: Units, value: str, shapes: dict[str, Shape], *, fixed: bool) -> None:
    shape = shapes.get(value, ())
    if len(shape) >= 2:
        units.ids[value] = units.new(shape[1])
        if fixed:
            units.fixed.update(int(i) for i in units.ids[value])


def _hand_on(net: Net, layer: Layer, data: list[str], units: Units, shapes: dict[str, Shape]) -> bool:
    """Give the output the units of the inputs, if the layer keeps channels apart; False if it does not."""
    ids = [units.ids[value] for value in data if value in units.ids]
    target = shapes.get(layer.output, ())
    if len(ids) != len(data) or not ids or len(target) < 2 or len([v for v in layer.outputs if v]) != 1:
        return False
    result = _handed_on(net, layer, data, ids, units, shapes)
    if result is None or len(result) != target[1]:
        return False
    units.ids[layer.output] = result
    return True


def _handed_on(
    net: Net, layer: Layer, data: list[str], ids: list[Ids], units: Units, shapes: dict[str, Shape]
) -> Ids | None:
    source = shapes[data[0]]
    if layer.op == "Flatten" and layer.integer("axis", 1) == 1:
        return np.repeat(ids[0], int(np.prod(source[2:])))
    if layer.op == "Concat" and layer.integer("axis", 0) == 1 and len(data) == len(layer.inputs):
        return np.concatenate(ids)
    if layer.op in BINARY and len(data) == 2:
        if len(shapes[data[0]]) != len(shapes[data[1]]) or len(ids[0]) != len(ids[1]):
            return None
        units.join(ids[0], ids[1])
        return ids[0]
    if layer.op in BINARY | PER_CHANNEL:
        return ids[0] if all(_fits(net, value, shapes[layer.output]) for value in layer.inputs[1:]) else None
    if layer.op == "ReduceMean":
        axes = reduced_axes(net, layer, len(source))
        return ids[0] if axes is not None and min(axes) >= 2 else None
    if layer.op in ELEMENTWISE | POOLS or is_depthwise(net, layer):
        return ids[0]
    return None


def _fits(net: Net, value: str, shape: Shape) -> bool:
    """Does a constant beside the data have no more axes than it?"""
    return value not in net.constants or net.constants[value].ndim <= len(shape)


def reduced_axes(net: Net, layer: Layer, rank: int) -> list[int] | None:
    """The axes a reduction works over, counted from the front; None when they are not constant."""
    axes = layer.integers("axes")
    if len(layer.inputs) > 1 and layer.inputs[1]:
        constant = net.constant(layer.inputs[1])
        if constant is None:
            return None
        axes = [int(i) for i in constant]
    return sorted(axis % rank for axis in axes) or list(range(rank))


def is_depthwise(net: Net, layer: Layer) -> bool:
    """Is it a convolution of every channel by a filter of its own, one output per channel?"""
    if layer.op != "Conv" or not is_plain(net, layer):
        return False
    weight = net.constants[layer.inputs[1]]
    return bool(weight.shape[1] == 1 and layer.integer("group", 1) == weight.shape[0] > 1)


def contractions(net: Net) -> Iterator[Layer]:
    """The layers that make new units out of old ones."""
    for layer in net.layers:
        if layer.op in CONTRACTIONS and is_plain(net, layer) and layer.integer("group", 1) == 1:
            yield layer


def by_out_and_in(layer: Layer, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight of a contraction as [out, in, everything else]."""
    swapped = weight.swapaxes(0, 1) if layer.op == "ConvTranspose" else weight
    return swapped.reshape(*swapped.shape[:2], -1)
