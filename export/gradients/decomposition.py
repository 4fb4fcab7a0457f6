"""Operators brought into the form that rules are written for, before anything is differentiated.

Group normalisations become instance normalisations of regrouped channels; any other operator without a rule is replaced
by its definition in the ONNX standard, where that is written in terms of other operators.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions, inline_selected_functions

from export.forward.reading import integer, opset
from export.gradients.registry import known_operators

# Since this version its scale and bias are per channel; before, per group.
_GROUP_NORM_PER_CHANNEL_SINCE = 21


def decomposed(model: ModelProto) -> ModelProto:
    """A copy in which every operator has a rule, if that can be had by definitions alone."""
    copy = inline_local_functions(model) if model.functions else model
    copy = _with_group_norms_replaced(copy)
    known = {name for domain, name in known_operators() if domain == ""}
    present = {node.op_type for node in copy.graph.node if node.domain in ("", "ai.onnx")}
    replaced = sorted(name for name in present - known if name != "CastLike" and _has_definition(name, opset(copy)))
    if replaced:
        copy = inline_selected_functions(copy, [("", name) for name in replaced], inline_schema_functions=True)
    return _with_casts(copy) if any(node.op_type == "CastLike" for node in copy.graph.node) else copy


def _with_casts(model: ModelProto) -> ModelProto:
    """CastLike as Cast to the type that its second input has."""
    copy = onnx.shape_inference.infer_shapes(model)
    graph = copy.graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in [*graph.input, *graph.value_info, *graph.output]}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "CastLike" and kinds.get(node.input[1]):
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", kinds[node.input[1]]))
            del node.input[1]
    return copy


def _has_definition(name: str, version: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(name, version, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _with_group_norms_replaced(model: ModelProto) -> ModelProto:
    if not any(node.op_type == "GroupNormalization" for node in model.graph.node):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    body = list(copy.graph.node)
    del copy.graph.node[:]
    for node in body:
        copy.graph.node.extend(_as_instance_norm(copy, node) if node.op_type == "GroupNormalization" else [node])
    return copy


def _as_instance_norm(model: ModelProto, node: NodeProto) -> Iterator[NodeProto]:
    """Reshape to [batch, groups, rest], normalise each, reshape back, scale and shift."""
    stem, groups = node.output[0], integer(node, "num_groups", 1)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)

    def constant(name: str, array: np.ndarray) -> str:
        model.graph.initializer.append(numpy_helper.from_array(array, f"{stem}.{name}"))
        return f"{stem}.{name}"

    def step(op: str, inputs: list[str], name: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [f"{stem}.{name}"], name=f"{node.name or stem}.{name}", **attributes)

    ones, zeros = constant("ones", np.ones(groups, np.float32)), constant("zeros", np.zeros(groups, np.float32))
    regroup = constant("regroup", np.array([0, groups, -1], dtype=np.int64))
    yield step("Shape", [node.input[0]], "shape")
    yield step("Reshape", [node.input[0], regroup], "grouped")
    yield step("CastLike", [ones, node.input[0]], "unit_scale")
    yield step("CastLike", [zeros, node.input[0]], "unit_shift")
    unit = [f"{stem}.grouped", f"{stem}.unit_scale", f"{stem}.unit_shift"]
    yield step("InstanceNormalization", unit, "unit", epsilon=epsilon)
    if opset(model) < _GROUP_NORM_PER_CHANNEL_SINCE:
        per_group = constant("column", np.array([-1, 1], dtype=np.int64))
        yield step("Reshape", [node.input[1], per_group], "scale")
        yield step("Reshape", [node.input[2], per_group], "shift")
        yield step("Mul", [f"{stem}.unit", f"{stem}.scale"], "scaled")
        yield step("Add", [f"{stem}.scaled", f"{stem}.shift"], "shifted")
        yield helper.make_node("Reshape", [f"{stem}.shifted", f"{stem}.shape"], [stem], name=node.name)
        return
    yield step("Shape", [node.input[1]], "channels")
    behind = constant("behind", np.array([-1], dtype=np.int64))
    lead = constant("lead", np.array([0], dtype=np.int64))
    yield step("Concat", [lead, f"{stem}.channels", behind], "flat", axis=0)
    yield step("Reshape", [f"{stem}.unit", f"{stem}.flat"], "by_channel")
    column = constant("column", np.array([-1, 1], dtype=np.int64))
    yield step("Reshape", [node.input[1], column], "scale")
    yield step("Reshape", [node.input[2], column], "shift")
    yield step("Mul", [f"{stem}.by_channel", f"{stem}.scale"], "scaled")
    yield step("Add", [f"{stem}.scaled", f"{stem}.shift"], "shifted")
    yield helper.make_node("Reshape", [f"{stem}.shifted", f"{stem}.shape"], [stem], name=node.name)
