"""The cost table of a forward model: dense FLOPs of every contraction, per sample, from inferred shapes.

One multiply-add counts as 2 (`device_runtime.wire.cost` has the definitions). A contraction costs the same three times:
forward, gradient of the data input, gradient of the weight; the second falls away where nothing before the node is
trained.
"""

import math
from collections.abc import Mapping

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import UsageError
from export.forward.modes import evaluation_form
from export.forward.parameters import CONTRACTIONS, parameter_table
from export.forward.reading import initializers, integer, label, origins

Shapes = Mapping[str, tuple[int, ...]]

# Operators through which no gradient passes.
_NOT_DIFFERENTIABLE = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "Equal", "Greater", "Less", "NonZero", "Not"})


def cost_table(model: ModelProto) -> tuple[NodeCost, ...]:
    """Dense FLOPs per sample of every Conv, ConvTranspose, Gemm and MatMul, in graph order.

    Raises UsageError for a shape that cannot be inferred, naming the node, and as `parameter_table` does.
    """
    shapes = _shapes_of_one_sample(model)
    trained = {p.name for p in parameter_table(model) if p.role != "statistic"}
    origin = origins(model.graph)
    depends = _depending_on(model, trained)
    rows = []
    for node in model.graph.node:
        if node.op_type in CONTRACTIONS and node.domain in ("", "ai.onnx"):
            weight = next((origin[v] for v in node.input[:2] if origin.get(v) in trained), "")
            rows.append(_row(node, shapes, weight, origin, depends))
    return tuple(rows)


def _row(node: NodeProto, shapes: Shapes, weight: str, origin: Mapping[str, str], depends: frozenset[str]) -> NodeCost:
    flops = 2 * _multiply_adds(node, shapes)
    # With two activations (attention) both are data inputs; a constant operand needs no gradient.
    data = [v for v in node.input[:2] if not weight or origin.get(v) != weight]
    return NodeCost(
        node=label(node),
        op=node.op_type,
        weight=weight,
        weight_count=math.prod(shapes[weight]) if weight else 0,
        flops_forward=flops,
        flops_backward_input=flops * sum(v in depends for v in data),
        flops_backward_weight=flops if weight else 0,
    )


def _multiply_adds(node: NodeProto, shapes: Shapes) -> int:
    a, b = (_shape(node, shapes, value) for value in node.input[:2])
    out = _shape(node, shapes, node.output[0])
    if node.op_type == "Conv":
        # Every output element contracts one filter: in-channels per group times the kernel.
        return math.prod(out) * math.prod(b[1:])
    if node.op_type == "ConvTranspose":
        # Every input element is spread over one filter: out-channels per group times the kernel.
        return math.prod(a) * math.prod(b[1:])
    if node.op_type == "Gemm":
        return math.prod(out) * a[0 if integer(node, "transA", 0) else 1]
    return math.prod(out) * a[-1]


def _shape(node: NodeProto, shapes: Shapes, value: str) -> tuple[int, ...]:
    if value not in shapes:
        raise UsageError(
            f"the shape of {value!r} at node {label(node)!r} cannot be inferred: "
            "export the model with fixed sizes for every axis but the batch"
        )
    return shapes[value]


def _shapes_of_one_sample(model: ModelProto) -> Shapes:
    """Shapes of every value with the batch axis set to 1; a value whose shape stays open is left out."""
    single = evaluation_form(model)
    constants = initializers(single.graph)
    del single.graph.value_info[:]
    for info in single.graph.input:
        if info.name not in constants and info.type.tensor_type.shape.dim:
            info.type.tensor_type.shape.dim[0].dim_value = 1
    for info in single.graph.output:
        info.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {name: tuple(tensor.dims) for name, tensor in constants.items()}
    for info in [*inferred.input, *inferred.value_info, *inferred.output]:
        shape = _known_shape(info)
        if shape is not None:
            shapes.setdefault(info.name, shape)
    return shapes


def _known_shape(info: ValueInfoProto) -> tuple[int, ...] | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 1 for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)


def _depending_on(model: ModelProto, sources: set[str]) -> frozenset[str]:
    """Every value that a trained parameter reaches through differentiable operators."""
    found = set(sources)
    for node in model.graph.node:
        if node.op_type not in _NOT_DIFFERENTIABLE and any(value in found for value in node.input):
            found.update(node.output)
    return frozenset(found)
