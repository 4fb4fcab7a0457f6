"""A forward graph as plain objects that passes rewrite: layers in order, constants by name, one input, one output."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from export.forward.form import BATCH, INPUT, OUTPUT
from export.forward.model import ForwardModel
from export.forward.reading import label

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(slots=True)
class Layer:
    """One node: its operator, a name to call it by, the values it reads and writes, its attributes."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, AttributeProto] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The first output, for most operators the only one."""
        return self.outputs[0]

    def input_at(self, position: int) -> str:
        """The value at an input position, "" where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes[name].i) if name in self.attributes else default

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes[name].f) if name in self.attributes else default

    def integers(self, name: str, default: Iterable[int] = ()) -> list[int]:
        """A list of integers."""
        return [int(i) for i in self.attributes[name].ints] if name in self.attributes else list(default)

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        return self.attributes[name].s.decode() if name in self.attributes else default

    def set(self, name: str, value: Any) -> None:
        """Give an attribute a value."""
        self.attributes[name] = helper.make_attribute(name, value)


@dataclass(slots=True)
class Net:
    """A graph under rewriting: constants are the initializers; `input` and `output` are the values of those names."""

    name: str
    input_shape: Shape
    layers: list[Layer]
    constants: dict[str, Array]
    opset: int
    ir_version: int

    def consumers(self) -> dict[str, list[Layer]]:
        """For every value, the layers that read it; a layer that reads it twice stands there twice."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for value in layer.inputs:
                found.setdefault(value, []).append(layer)
        return found

    def producers(self) -> dict[str, Layer]:
        """For every value, the layer that writes it."""
        return {value: layer for layer in self.layers for value in layer.outputs if value}

    def constant(self, value: str) -> Array | None:
        """The value of a constant, None for anything else."""
        return self.constants.get(value)

    def add_constant(self, wanted: str, value: Array) -> str:
        """Keep a new constant under `wanted`, or a name near it; gives the name."""
        taken = set(self.constants) | {v for layer in self.layers for v in (*layer.inputs, *layer.outputs)}
        name, count = wanted, 1
        while name in taken:
            name, count = f"{wanted}.{count}", count + 1
        self.constants[name] = value
        return name

    def rewire(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`."""
        for layer in self.layers:
            layer.inputs = [new if value == old else value for value in layer.inputs]

    def bypass(self, layer: Layer) -> bool:
        """Take out a layer that hands its first input on; False where that would leave the output without a name."""
        source, result = layer.inputs[0], layer.output
        if result == OUTPUT:
            maker = self.producers().get(source)
            if maker is None:
                return False
            maker.outputs = [OUTPUT if v == source else v for v in maker.outputs]
            self.rewire(source, OUTPUT)
        else:
            self.rewire(result, source)
        self.layers = [other for other in self.layers if other is not layer]
        return True

    def drop_unused(self) -> None:
        """Take out layers that the output does not depend on, and constants that nothing reads."""
        needed = {OUTPUT}
        kept: list[Layer] = []
        for layer in reversed(self.layers):
            if any(value in needed for value in layer.outputs):
                needed.update(layer.inputs)
                kept.append(layer)
        self.layers = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}

    def shapes(self, batch: int = 1) -> dict[str, Shape]:
        """The shape of every value for a batch of `batch`; a value whose shape cannot be inferred is left out."""
        model = write_net(self)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        found: dict[str, Shape] = {name: value.shape for name, value in self.constants.items()}
        for info in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = info.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                found[info.name] = tuple(d.dim_value for d in kind.shape.dim)
        return found


def read_net(model: ForwardModel) -> Net:
    """The net of a forward model.

    Raises UsageError for an operator that is not of the standard, naming its node.
    """
    graph = model.graph
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise UsageError(
                f"node {label(node)!r} is {node.domain}.{node.op_type}, no standard operator: "
                "export the model without it"
            )
    return Net(
        name=graph.name,
        input_shape=model.inputs[INPUT],
        layers=[_read_layer(node) for node in graph.node],
        constants={tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer},
        opset=model.opset,
        ir_version=model.ir_version,
    )


def _read_layer(node: NodeProto) -> Layer:
    return Layer(
        op=node.op_type,
        name=node.name or f"{node.op_type} -> {node.output[0]}",
        inputs=list(node.input),
        outputs=list(node.output),
        attributes={a.name: a for a in node.attribute},
    )


def write_net(net: Net, metadata: Mapping[str, str] | None = None) -> ModelProto:
    """The net as an ONNX model with symbolic batch axis and, if given, metadata entries."""
    graph = helper.make_graph(
        [_write_layer(layer) for layer in net.layers],
        net.name,
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [BATCH, *net.input_shape])],
        [helper.make_empty_tensor_value_info(OUTPUT)],
        [numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), n) for n, v in net.constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    opsets = [helper.make_opsetid("", net.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=net.ir_version, producer_name="espalier")
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return model


def _write_layer(layer: Layer) -> NodeProto:
    node = helper.make_node(layer.op, layer.inputs, layer.outputs, name=layer.name)
    node.attribute.extend(attribute for _, attribute in sorted(layer.attributes.items()))
    return node
