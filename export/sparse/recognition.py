"""Which node of a forward graph can be an operator of the layout, and with which settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from export.gradients.registry import Applied
from export.gradients.tape import Tape
from export.gradients.windows import windows_of
from export.sparse.layout import Map, Windows, map_of


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


class Recogniser:
    """Tells layers among nodes. maps: the values that lie in the layout so far; source: of which of them a value is a
    view."""

    def __init__(
        self, tape: Tape, weights: Mapping[str, ir.Value], maps: Mapping[ir.Value, Map],
        source: Callable[[ir.Value], ir.Value | None],
    ) -> None:  # fmt: skip
        self._tape, self._maps, self._source = tape, maps, source
        self._weights = {value: name for name, value in weights.items()}

    def layer_of(self, node: ir.Node) -> Layer | None:
        """The layer that a node becomes, None for one that stays a standard operator."""
        recognise = _RECOGNISED.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        return None if recognise is None else recognise(self, node)

    def _weight_of(self, value: ir.Value | None) -> tuple[str, bool]:
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

    def _convolution(self, node: ir.Node) -> Layer | None:
        """A Conv over one or two axes with a prunable weight."""
        x, weight = node.inputs[0], self._weight_of(node.inputs[1])
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

    def _product(self, node: ir.Node) -> Layer | None:
        """A Gemm or MatMul of a batch of vectors with a prunable weight."""
        x = node.inputs[0]
        weight, flipped = self._weight_of(node.inputs[1])
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
        return Layer("Linear", node, self._source(x) or x, node.outputs[0], weight, bias, attributes=attributes)

    def _normalisation(self, node: ir.Node) -> Layer | None:
        """A BatchNormalization over the moments of the batch."""
        x, training = node.inputs[0], node.attributes.get("training_mode")
        if x is None or x not in self._maps or training is None or not training.as_int() or len(node.outputs) != 3:
            return None
        epsilon = node.attributes.get("epsilon")
        attributes: dict[str, object] = {"epsilon": 1e-5 if epsilon is None else epsilon.as_float()}
        return Layer("BatchNorm", node, x, node.outputs[0], attributes=attributes)

    def _pooling(self, node: ir.Node) -> Layer | None:
        """A MaxPool or AveragePool with windows, or over the whole map."""
        x = node.inputs[0]
        if x is None or x not in self._maps or len(node.outputs) != 1:
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

    def _rectifier(self, node: ir.Node) -> Layer | None:
        """A ReLU that no layer before it could take along."""
        x = node.inputs[0]
        return None if x is None or x not in self._maps else Layer("Relu", node, x, node.outputs[0])

    def _addition(self, node: ir.Node) -> Layer | None:
        """A sum of two values of the layout."""
        first, second = node.inputs
        if first is None or second is None or first not in self._maps or second not in self._maps:
            return None
        if self._tape.shape(first) != self._tape.shape(second):
            return None
        return Layer("Add", node, first, node.outputs[0], branch=second)


def _axes(*lists: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Kernel, stride, padding and dilation with what a missing axis has."""
    return list(zip(lists, (1, 1, 0, 1), strict=True))


def _two(numbers: tuple[int, ...], fill: int) -> tuple[int, int]:
    """One number for rows and one for columns."""
    rows, columns = (*[fill] * (2 - len(numbers)), *numbers)
    return rows, columns


_RECOGNISED: Mapping[str, Callable[[Recogniser, ir.Node], Layer | None]] = {
    "Conv": Recogniser._convolution,
    "Gemm": Recogniser._product,
    "MatMul": Recogniser._product,
    "BatchNormalization": Recogniser._normalisation,
    "MaxPool": Recogniser._pooling,
    "AveragePool": Recogniser._pooling,
    "GlobalAveragePool": Recogniser._pooling,
    "Relu": Recogniser._rectifier,
    "Add": Recogniser._addition,
}
