"""Which nodes of a forward graph become operators of the layout, and what is joined into one.

Contractions with a prunable weight enter the layout; normalisations, poolings, ReLU and additions stay in it when they
read from it. A ReLU joins the operator before it, an addition the batch normalisation before it. Views of a whole batch
cost nothing: a fully connected layer reads a map as it lies. Whatever else reads a value of the layout gets it unpacked
and runs as the standard operator that it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from export.forward.form import BATCH
from export.gradients.registry import Applied
from export.gradients.tape import Tape
from export.gradients.windows import windows_of
from export.sparse.layout import NO_HALO, Halo, Map, Windows, map_of

# Operators whose gradient rule can gate what it gives to the ReLU before it.
_GATING = frozenset({"Conv", "Linear", "MaxPool"})
_WITH_RELU = frozenset({"Conv", "Linear", "MaxPool", "BatchNorm"})
_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


@dataclass(slots=True, eq=False)
class Layer:
    """A node that becomes an operator of the layout.

    x: the value it reads there. makes: the value of the forward graph that its result stands for, behind what was
    joined. weight: the prunable parameter. branch: what is added before the ReLU.
    """

    operator: str
    node: ir.Node
    x: ir.Value
    makes: ir.Value
    weight: str = ""
    bias: ir.Value | None = None
    branch: ir.Value | None = None
    relu: bool = False
    windows: Windows | None = None
    attributes: dict[str, object] = field(default_factory=dict)

    @property
    def reads(self) -> list[ir.Value]:
        """The values of the layout that it reads."""
        return [self.x] if self.branch is None else [self.x, self.branch]


class Plan:
    """The layers and standard nodes of a forward graph in order, and the halos that their values need.

    maps: the values that lie in the layout, some of them packed for it. views: values that are another view of one.
    """

    def __init__(self, tape: Tape, nodes: Sequence[ir.Node], output: ir.Value, weights: Mapping[str, ir.Value]) -> None:
        self._tape, self._output = tape, output
        self._weights = {value: name for name, value in weights.items()}
        self.steps: list[Layer | ir.Node] = []
        self.maps: dict[ir.Value, Map] = {}
        self.views: dict[ir.Value, ir.Value] = {}
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
        recognise = _RECOGNISED.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        layer = recognise(self, node) if recognise is not None else None
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

    def weight_of(self, value: ir.Value | None) -> tuple[str, bool]:
        """The prunable parameter that a value is, or is the transpose of; "" for any other."""
        if value is None:
            return "", False
        if value in self._weights:
            return self._weights[value], False
        node = value.producer()
        if node is not None and node.op_type == "Transpose" and node.inputs[0] in self._weights:
            permutation = node.attributes.get("perm")
            if permutation is None or list(permutation.as_ints()) == [1, 0]:
                return self._weights[node.inputs[0]], True
        return "", False

    def convolution(self, node: ir.Node) -> Layer | None:
        """A Conv over one or two axes with a prunable weight."""
        x, weight = node.inputs[0], self.weight_of(node.inputs[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if x is None or not weight[0] or weight[1]:
            return None
        shape, result = self._tape.shape(x), self._tape.shape(node.outputs[0])
        if not 3 <= len(shape) <= 4 or map_of(shape) is None or map_of(result) is None:
            return None
        assert node.inputs[1] is not None
        kernel = tuple(int(n) for n in self._tape.shape(node.inputs[1])[2:])
        found, attributes = self._windows(node, kernel)
        group = node.attributes.get("group")
        attributes["group"] = 1 if group is None else group.as_int()
        return Layer("Conv", node, x, node.outputs[0], weight[0], bias, windows=found, attributes=attributes)

    def _windows(self, node: ir.Node, kernel: tuple[int, ...]) -> tuple[Windows, dict[str, object]]:
        assert node.inputs[0] is not None
        x, y = self._tape.shape(node.inputs[0])[2:], self._tape.shape(node.outputs[0])[2:]
        seen = windows_of(Applied(node, (), ()), kernel, x, y)
        found = Windows(*(_two(n, fill) for n, fill in _axes(seen.kernel, seen.stride, seen.before, seen.dilation)))
        return found, {
            "kernel": list(found.kernel),
            "strides": list(found.strides),
            "before": list(found.before),
            "dilations": list(found.dilations),
        }

    def product(self, node: ir.Node) -> Layer | None:
        """A Gemm or MatMul of a batch of vectors with a prunable weight."""
        x = node.inputs[0]
        weight, flipped = self.weight_of(node.inputs[1])
        if x is None or not weight or len(self._tape.shape(x)) != 2 or map_of(self._tape.shape(x)) is None:
            return None
        bias, transposed = None, True
        if node.op_type == "Gemm":
            own = node.attributes
            if any(own[n].as_float() != 1.0 for n in ("alpha", "beta") if n in own):
                return None
            if "transA" in own and own["transA"].as_int():
                return None
            transposed = not ("transB" in own and own["transB"].as_int())
            bias = node.inputs[2] if len(node.inputs) > 2 else None
        outputs = int(self._tape.shape(node.outputs[0])[1])
        if bias is not None and self._tape.shape(bias) != (outputs,):
            return None
        attributes: dict[str, object] = {"outputs": outputs, "transposed": int(transposed != flipped)}
        return Layer("Linear", node, self.source(x) or x, node.outputs[0], weight, bias, attributes=attributes)

    def normalisation(self, node: ir.Node) -> Layer | None:
        """A BatchNormalization over the moments of the batch."""
        x, training = node.inputs[0], node.attributes.get("training_mode")
        if x is None or x not in self.maps or training is None or not training.as_int() or len(node.outputs) != 3:
            return None
        epsilon = node.attributes.get("epsilon")
        attributes: dict[str, object] = {"epsilon": 1e-5 if epsilon is None else epsilon.as_float()}
        return Layer("BatchNorm", node, x, node.outputs[0], attributes=attributes)

    def pooling(self, node: ir.Node) -> Layer | None:
        """A MaxPool or AveragePool with windows, or over the whole map."""
        x = node.inputs[0]
        if x is None or x not in self.maps or len(node.outputs) != 1:
            return None
        size = tuple(int(n) for n in self._tape.shape(x)[2:])
        whole = node.op_type.startswith("Global")
        kernel = size if whole else tuple(node.attributes["kernel_shape"].as_ints())
        found, attributes = self._windows(node, kernel)
        pads = node.attributes.get("pads")
        behind = [0] * len(size) if pads is None else list(pads.as_ints())[len(size) :]
        attributes["behind"] = list(_two(tuple(max(n, 0) for n in behind), 0))
        counting = node.attributes.get("count_include_pad")
        attributes["count_padding"] = 0 if counting is None else counting.as_int()
        operator = "MaxPool" if node.op_type == "MaxPool" else "AveragePool"
        return Layer(operator, node, x, node.outputs[0], windows=found, attributes=attributes)

    def rectifier(self, node: ir.Node) -> Layer | None:
        """A ReLU that no layer before it could take along."""
        x = node.inputs[0]
        return None if x is None or x not in self.maps else Layer("Relu", node, x, node.outputs[0])

    def addition(self, node: ir.Node) -> Layer | None:
        """A sum of two values of the layout."""
        first, second = node.inputs
        if first is None or second is None or first not in self.maps or second not in self.maps:
            return None
        if self._tape.shape(first) != self._tape.shape(second):
            return None
        return Layer("Add", node, first, node.outputs[0], branch=second)


def _wider(a: Halo, b: Halo) -> Halo:
    return max(a[0], b[0]), max(a[1], b[1])


def _axes(*lists: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Kernel, stride, padding and dilation with what a missing axis has."""
    return list(zip(lists, (1, 1, 0, 1), strict=True))


def _two(numbers: tuple[int, ...], fill: int) -> tuple[int, int]:
    """One number for rows and one for columns."""
    rows, columns = (*[fill] * (2 - len(numbers)), *numbers)
    return rows, columns


_RECOGNISED: Mapping[str, Callable[[Plan, ir.Node], Layer | None]] = {
    "Conv": Plan.convolution,
    "Gemm": Plan.product,
    "MatMul": Plan.product,
    "BatchNormalization": Plan.normalisation,
    "MaxPool": Plan.pooling,
    "AveragePool": Plan.pooling,
    "GlobalAveragePool": Plan.pooling,
    "Relu": Plan.rectifier,
    "Add": Plan.addition,
}
