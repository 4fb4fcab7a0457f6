"""The order of a step in the layout: what of a forward graph lies in it, and what is joined into one operator.

Contractions with a prunable weight enter the layout; normalisations, poolings, ReLU and additions stay in it when they
read from it. A ReLU joins the operator before it, an addition the batch normalisation before it. Views of a whole batch
cost nothing: a fully connected layer reads a map as it lies. Whatever else reads a value of the layout gets it unpacked
and runs as the standard operator that it is.
"""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from export.forward.form import BATCH
from export.gradients.tape import Tape
from export.sparse.layout import NO_HALO, Halo, Map, map_of
from export.sparse.recognition import Layer, Recogniser

# Operators whose gradient rule can gate what it gives to the ReLU before it.
_GATING = frozenset({"Conv", "Linear", "MaxPool"})
_WITH_RELU = frozenset({"Conv", "Linear", "MaxPool", "BatchNorm"})
_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


class Plan:
    """The layers and standard nodes of a forward graph in order, and the halos that their values need.

    maps: the values that lie in the layout, some of them packed for it. views: values that are another view of one.
    """

    def __init__(self, tape: Tape, nodes: Sequence[ir.Node], output: ir.Value, weights: Mapping[str, ir.Value]) -> None:
        self._tape, self._output = tape, output
        self.steps: list[Layer | ir.Node] = []
        self.maps: dict[ir.Value, Map] = {}
        self.views: dict[ir.Value, ir.Value] = {}
        self._recogniser = Recogniser(tape, weights, self.maps, self.source)
        self._made_by: dict[ir.Value, Layer] = {}
        self._uses: dict[ir.Value, int] = {output: 1}
        self._waiting: dict[ir.Value, Layer] = {}
        for node in nodes:
            for value in node.inputs:
                if value is not None:
                    self._uses[value] = self._uses.get(value, 0) + 1
        for node in nodes:
            self._add(node)

    def _add(self, node: ir.Node) -> None:
        if self._joins(node) or self._is_view(node):
            return
        layer = self._recogniser.layer_of(node)
        for value in node.inputs:
            if layer is None and value is not None:
                self._settle(value)
        if layer is None:
            self.steps.append(node)
            return
        self.maps.setdefault(layer.x, self._map(layer.x))
        self.maps[layer.makes] = self._map(layer.makes)
        self._made_by[layer.makes] = layer
        for value in layer.reads:
            self._settle(value)
        if layer.operator == "BatchNorm" and self._uses.get(layer.makes) == 1:
            self._waiting[layer.makes] = layer  # for the addition that may follow
        else:
            self.steps.append(layer)

    def finish(self) -> None:
        """Put down what still waited."""
        for value in list(self._waiting):
            self._settle(value)

    def _settle(self, value: ir.Value) -> None:
        """Put a waiting normalisation down, since something else than an addition reads it."""
        layer = self._waiting.pop(self.source(value) or value, None)
        if layer is not None:
            self.steps.append(layer)

    def source(self, value: ir.Value) -> ir.Value | None:
        """The value of the layout that `value` is, or is a view of."""
        value = self.views.get(value, value)
        return value if value in self.maps else None

    def _map(self, value: ir.Value) -> Map:
        found = map_of(self._tape.shape(value))
        assert found is not None
        return found

    def _joins(self, node: ir.Node) -> bool:
        """Whether a ReLU, or an addition to a normalisation, becomes part of the layer before it."""
        if node.op_type == "Relu":
            return self._join_relu(node)
        if node.op_type == "Add":
            return self._join_addition(node)
        return False

    def _join_relu(self, node: ir.Node) -> bool:
        before = node.inputs[0]
        layer = self._made_by.get(before) if before is not None else None
        if layer is None or layer.operator not in _WITH_RELU or layer.relu or self._uses.get(layer.makes) != 1:
            return False
        self._rename(layer, node.outputs[0])
        layer.relu = True
        self._settle(node.outputs[0])
        return True

    def _join_addition(self, node: ir.Node) -> bool:
        first, second = node.inputs
        if first is None or second is None or first not in self.maps or second not in self.maps or first is second:
            return False
        if self._tape.shape(first) != self._tape.shape(second):
            return False
        for one, other in ((first, second), (second, first)):
            layer = self._waiting.get(one)
            if layer is not None and layer.branch is None:
                self._settle(other)
                layer.branch = other
                self._rename(layer, node.outputs[0])
                if self._uses.get(layer.makes) != 1:
                    self._settle(layer.makes)
                return True
        return False

    def _rename(self, layer: Layer, result: ir.Value) -> None:
        """Let a layer make `result`, which follows from what it made."""
        if self._waiting.pop(layer.makes, None) is not None:
            self._waiting[result] = layer
        del self.maps[layer.makes], self._made_by[layer.makes]
        layer.makes = result
        self.maps[result] = self._map(result)
        self._made_by[result] = layer

    def _is_view(self, node: ir.Node) -> bool:
        """Whether a node only gives samples of the layout another shape; nothing is done until that is asked for."""
        if node.op_type not in _VIEWS or node.inputs[0] is None:
            return False
        source = self.source(node.inputs[0])
        shape = self._tape.shape(node.outputs[0])
        if source is None or shape[0] != BATCH or not all(isinstance(n, int) for n in shape[1:]):
            return False
        self.views[node.outputs[0]] = source
        return True

    def halos(self, needs_gradient: Callable[[ir.Value], bool]) -> tuple[dict[ir.Value, Halo], dict[ir.Value, Halo]]:
        """The halo of every value of the layout, and of its gradient."""
        forward, backward = dict.fromkeys(self.maps, NO_HALO), dict.fromkeys(self.maps, NO_HALO)
        for layer in self.layers():
            if layer.windows is not None and layer.operator == "Conv":
                x, y = self.maps[layer.x], self.maps[layer.makes]
                forward[layer.x] = _wider(forward[layer.x], layer.windows.halo_of_input(x, y))
                if needs_gradient(layer.x):
                    backward[layer.makes] = _wider(backward[layer.makes], layer.windows.halo_of_gradient(x, y))
        for halos in (forward, backward):
            self._equalise(halos)
        return forward, backward

    def _equalise(self, halos: dict[ir.Value, Halo]) -> None:
        """Sums are standard operators: what they read and make has one halo."""
        sums = [(layer.x, layer.branch, layer.makes) for layer in self.layers() if layer.operator == "Add"]
        changed = True
        while changed:
            changed = False
            for group in sums:
                values = [value for value in group if value is not None]
                widest = NO_HALO
                for value in values:
                    widest = _wider(widest, halos[value])
                changed |= any(halos[value] != widest for value in values)
                halos.update(dict.fromkeys(values, widest))

    def layers(self) -> list[Layer]:
        """The steps that are layers."""
        return [step for step in self.steps if isinstance(step, Layer)]

    def gated(self) -> set[ir.Value]:
        """Results of a ReLU whose readers all gate their gradient themselves."""
        others = {self.source(v) or v for s in self.steps if isinstance(s, ir.Node) for v in s.inputs if v is not None}
        others.add(self.source(self._output) or self._output)
        for layer in self.layers():
            others.update(layer.reads if layer.operator not in _GATING else [])
        makers = {layer.makes for layer in self.layers() if layer.relu and layer.operator in _GATING}
        return makers - others


def _wider(a: Halo, b: Halo) -> Halo:
    return max(a[0], b[0]), max(a[1], b[1])
