"""The parameter table of a forward model: which initializers are parameters, of which role, and which may be pruned."""

import math
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import DECODED_BYTES_MAX, PARAMETER_NAME_BYTES_MAX, TENSOR_COUNT_MAX, TENSOR_DIMS_MAX
from device_runtime.wire.manifest import Parameter, Role
from device_runtime.wire.support import FloatArray
from export.forward.reading import HasGraph, initializers, uses

# Operators whose weight may be pruned.
CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# By operator: what the inputs are that a parameter may feed. A tensor elsewhere is a constant of the graph.
_ROLES: Mapping[str, Mapping[int, Role]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "BatchNormalization": {1: "norm", 2: "norm", 3: "statistic", 4: "statistic"},
    "LayerNormalization": {1: "norm", 2: "norm"},
    "GroupNormalization": {1: "norm", 2: "norm"},
    "InstanceNormalization": {1: "norm", 2: "norm"},
    "PRelu": {1: "weight"},
    "Gather": {0: "weight"},
    "LSTM": {1: "weight", 2: "weight", 3: "bias"},
    "GRU": {1: "weight", 2: "weight", 3: "bias"},
    "Add": {0: "bias", 1: "bias"},
    "Mul": {0: "norm", 1: "norm"},
}


def parameter_table(model: HasGraph) -> tuple[Parameter, ...]:
    """The parameters of a forward model, in the order of its initializers.

    An initializer is a parameter of the role its use gives it (seen through Transpose, Reshape and their like):
    weights and biases of contractions, scale and shift of normalisations, running statistics, embeddings, and tensors
    of several elements that are added or multiplied. Prunable are the weights of Conv, ConvTranspose, Gemm and
    MatMul with at least two axes. Constants are integers, tensors used otherwise, and single numbers that are added or
    multiplied.

    Raises UsageError for a parameter that is not float32, an over-long name, too many parameters or axes, and a
    model without parameters.
    """
    roles: dict[str, Role] = {}
    prunable: set[str] = set()
    tensors = initializers(model.graph)
    for name, node, position in uses(model.graph):
        role = _role(node, position)
        if role is None or tensors[name].data_type not in _FLOATS or _is_scalar_constant(node, tensors[name]):
            continue
        # A tied tensor has several uses; what it contracts counts before what it is looked up or added for.
        if name not in roles or role == "weight":
            roles[name] = role
        if node.op_type in CONTRACTIONS and role == "weight" and len(tensors[name].dims) >= 2:
            prunable.add(name)
    table = tuple(
        Parameter(name=name, shape=tuple(tensor.dims), role=roles[name], prunable=name in prunable)
        for name, tensor in tensors.items()
        if name in roles
    )
    _check(table, tensors)
    return table


def initial_params(model: HasGraph) -> dict[str, FloatArray]:
    """The values of the parameters, float32, in table order.

    Raises UsageError as `parameter_table` does.
    """
    tensors = initializers(model.graph)
    return {
        p.name: np.ascontiguousarray(numpy_helper.to_array(tensors[p.name]), dtype=np.float32).reshape(p.shape)
        for p in parameter_table(model)
    }


def _is_scalar_constant(node: NodeProto, tensor: TensorProto) -> bool:
    return node.op_type in ("Add", "Mul") and math.prod(tensor.dims) == 1


def _role(node: NodeProto, position: int) -> Role | None:
    return _ROLES.get(node.op_type, {}).get(position) if node.domain in ("", "ai.onnx") else None


def _check(table: tuple[Parameter, ...], tensors: Mapping[str, TensorProto]) -> None:
    if not any(p.role != "statistic" for p in table):
        raise UsageError("the model has no parameter to train: give a model whose weights are initializers")
    if len(table) > TENSOR_COUNT_MAX:
        raise UsageError(f"the model has {len(table)} parameters: the limit is {TENSOR_COUNT_MAX}")
    total = sum(math.prod(p.shape) for p in table)
    if 4 * total > DECODED_BYTES_MAX:
        raise UsageError(f"the model has {total:,} parameter values: the limit is {DECODED_BYTES_MAX // 4:,}")
    for p in table:
        if tensors[p.name].data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(tensors[p.name].data_type)
            raise UsageError(f"parameter {p.name!r} is {kind}: export the model in float32")
        if not 0 < len(p.name.encode()) <= PARAMETER_NAME_BYTES_MAX:
            raise UsageError(
                f"the parameter name {p.name[:40]!r} has {len(p.name.encode())} bytes: "
                f"rename it to at most {PARAMETER_NAME_BYTES_MAX}"
            )
        if len(p.shape) > TENSOR_DIMS_MAX or min(p.shape) < 1:
            raise UsageError(
                f"parameter {p.name!r} has the shape {p.shape}: use at most {TENSOR_DIMS_MAX} axes, none empty"
            )
