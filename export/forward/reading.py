"""Questions asked of a forward graph: attributes, initializers, and what a value is in the end."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# Operators that only rename, reorder or retype a tensor: what they are given is what a reader of their output uses.
VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})


class HasGraph(Protocol):
    """A forward model, or onnx's model in the same form."""

    @property
    def graph(self) -> GraphProto:
        """The graph."""
        ...


def integer(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node, or `default` when the node leaves it out."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """The graph's constant tensors by name, in graph order."""
    return {tensor.name: tensor for tensor in graph.initializer}


def origins(graph: GraphProto) -> Mapping[str, str]:
    """For every value that is a view of an initializer (or an initializer itself), the initializer's name."""
    found = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in VIEWS and node.input and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def uses(graph: GraphProto) -> Iterator[tuple[str, NodeProto, int]]:
    """Every (initializer, node, input position) that reads an initializer, seen through views."""
    origin = origins(graph)
    for node in graph.node:
        if node.op_type in VIEWS and node.input and node.input[0] in origin:
            continue
        for position, value in enumerate(node.input):
            if value in origin:
                yield origin[value], node, position


def label(node: NodeProto) -> str:
    """What to call a node in a message: its name, or its operator and output where it has none."""
    return node.name or f"{node.op_type} -> {node.output[0]}"


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor a Constant node holds, or None when the node is no Constant or holds no dense tensor."""
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    value = helper.get_attribute_value(node.attribute[0])
    if isinstance(value, TensorProto):
        return numpy_helper.from_array(numpy_helper.to_array(value), node.output[0])
    return None


def opset(model: ModelProto) -> int:
    """The version of the standard operators a model uses, 0 when it does not say."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def free_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs without the initializers, which old files list among them."""
    constants = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in constants]
