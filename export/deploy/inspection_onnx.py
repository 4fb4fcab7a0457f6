"""The layers of any ONNX file: forward, quantised (QDQ or QLinear) or training graph."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper

from device_runtime.wire.errors import UsageError
from export.deploy.facts import Inspection, LayerFacts, ideal_flops, sizes
from export.deploy.provenance import load_onnx, onnx_provenance
from export.forward.reading import VIEWS, constant_tensor, free_inputs, integer, label, opset

Shape = tuple[int, ...]
# Where each contraction has its weight; the data is at 0.
_WEIGHT_AT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3, "FusedConv": 1, "FusedGemm": 1, "FusedMatMul": 1,
}  # fmt: skip
# A constant seen through these is still the same weight.
_PASSING = VIEWS | {"QuantizeLinear", "DequantizeLinear"}
# Constants at these inputs say how a tensor is laid out or quantised; they are no parameters.
_SETTINGS = frozenset({"Reshape", "Clip", "Pad", "Slice", "Resize", "Squeeze", "Unsqueeze", "ReduceMean", "Expand"})


def inspect_onnx(path: Path) -> Inspection:
    """What is in an ONNX file. Raises UsageError for a file that is none."""
    model = load_onnx(path)
    graph = model.graph
    try:
        constants = _constants(graph)
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} holds a malformed constant ({error}): export it again") from error
    origin = _origins(graph, constants)
    shapes = _shapes(model, constants)
    layers = tuple(
        _facts(node, constants, origin, shapes)
        for node in graph.node
        if node.op_type not in ("Constant", "QuantizeLinear", "DequantizeLinear")
    )
    counted = {name: constants[name] for name in _parameters(graph, constants, origin)}
    dense = sum(layer.flops_dense or 0 for layer in layers)
    file_bytes, compressed_bytes = sizes(path)
    return Inspection(
        file=path.name,
        kind="onnx",
        version=opset(model),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        file_bytes=file_bytes,
        compressed_bytes=compressed_bytes,
        inputs={i.name: _signature(i) for i in free_inputs(graph)},
        outputs={o.name: _signature(o) for o in graph.output},
        parameters=sum(v.size for v in counted.values()),
        zeros=sum(v.size - int(np.count_nonzero(v)) for v in counted.values()),
        flops_dense=dense,
        flops_ideal=sum(layer.flops_ideal or 0 for layer in layers),
        flops_executed=dense,
        flops_unknown=tuple(x.name for x in layers if x.op in _WEIGHT_AT and x.flops_dense is None),
        dtypes=dict(_bytes_by_type(constants)),
        layers=layers,
        provenance=onnx_provenance(model),
    )


def _constants(graph: GraphProto) -> dict[str, NDArray[np.generic]]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        tensor = constant_tensor(node)
        if tensor is not None:
            found[node.output[0]] = numpy_helper.to_array(tensor)
    return found


def _origins(graph: GraphProto, constants: Mapping[str, object]) -> dict[str, str]:
    found = {name: name for name in constants}
    for node in graph.node:
        if node.op_type in _PASSING and node.input and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _parameter_inputs(
    node: NodeProto, constants: Mapping[str, NDArray[np.generic]], origin: Mapping[str, str]
) -> list[str]:
    """The constants a node reads as numbers: weights, biases, norms; not shapes, bounds, scales and zero points."""
    if node.op_type in _SETTINGS | _PASSING or node.op_type == "Constant":
        return []
    if node.op_type in ("QLinearConv", "QLinearMatMul"):
        values = [v for position, v in enumerate(node.input) if position in (3, 8)]
    elif node.op_type in ("ConvInteger", "MatMulInteger"):
        values = list(node.input[1:2])
    else:
        values = list(node.input)
    found = [origin[v] for v in values if v in origin]
    return [name for name in dict.fromkeys(found) if constants[name].dtype != np.int64]


def _parameters(
    graph: GraphProto, constants: Mapping[str, NDArray[np.generic]], origin: Mapping[str, str]
) -> list[str]:
    return list(dict.fromkeys(n for node in graph.node for n in _parameter_inputs(node, constants, origin)))


def _facts(
    node: NodeProto,
    constants: Mapping[str, NDArray[np.generic]],
    origin: Mapping[str, str],
    shapes: Mapping[str, Shape],
) -> LayerFacts:
    names = _parameter_inputs(node, constants, origin)
    values = [constants[name] for name in names]
    position = _WEIGHT_AT.get(node.op_type)
    dense = None if position is None else _flops(node, position, shapes)
    weight = constants.get(origin.get(node.input[position], "")) if position is not None else None
    zeros = 0 if weight is None else weight.size - int(np.count_nonzero(weight))
    kinds = [str(v.dtype) for v in ([weight] if weight is not None else values)]
    return LayerFacts(
        name=label(node),
        op=node.op_type,
        shape=shapes.get(node.output[0]),
        dtype=kinds[0] if kinds else "",
        parameters=sum(v.size for v in values),
        zeros=sum(v.size - int(np.count_nonzero(v)) for v in values),
        flops_dense=dense,
        flops_ideal=ideal_flops(dense, 0 if weight is None else weight.size, zeros),
    )


def _flops(node: NodeProto, position: int, shapes: Mapping[str, Shape]) -> int | None:
    """2 per multiply-add of one sample (`export.forward.costs` has the same rule); None where a shape is not known."""
    a, b, out = (shapes.get(v) for v in (node.input[0], node.input[position], node.output[0]))
    if a is None or b is None or out is None:
        return None
    if "ConvTranspose" in node.op_type:
        return 2 * math.prod(a) * math.prod(b[1:])
    if "Conv" in node.op_type:
        return 2 * math.prod(out) * math.prod(b[1:])
    return 2 * math.prod(out) * (a[0] if integer(node, "transA", 0) else a[-1])


def _shapes(model: ModelProto, constants: Mapping[str, NDArray[np.generic]]) -> dict[str, Shape]:
    """Shapes for a batch of one; every other open axis leaves what depends on it open."""
    single = ModelProto()
    single.CopyFrom(model)
    for info in free_inputs(single.graph):
        dims = info.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for info in single.graph.output:
        info.type.tensor_type.ClearField("shape")
    del single.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    found: dict[str, Shape] = {name: value.shape for name, value in constants.items()}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found.setdefault(info.name, tuple(d.dim_value for d in dims))
    return found


def _signature(info: ValueInfoProto) -> tuple[int | str, ...]:
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in dims)


def _bytes_by_type(constants: Mapping[str, NDArray[np.generic]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for value in constants.values():
        found[str(value.dtype)] += value.nbytes
    return found
