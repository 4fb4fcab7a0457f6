"""A forward model with other values: parameters as graph inputs, or given values in place of its own."""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import FloatArray
from export.modes import evaluation_form
from export.parameters import parameter_table


def parameterised_forward(model: ModelProto) -> bytes:
    """The evaluation form of a forward model as ONNX bytes, with every parameter a graph input of its own name.

    Inputs are `input` and then the parameters in table order, statistics too; the parameters' initializers are gone.
    One onnxruntime.InferenceSession of it evaluates any number of parameter sets.

    Raises UsageError as `parameter_table` does.
    """
    free = evaluation_form(model)
    table = parameter_table(model)
    names = {p.name for p in table}
    kept = [tensor for tensor in free.graph.initializer if tensor.name not in names]
    kinds = {tensor.name: tensor.data_type for tensor in free.graph.initializer}
    del free.graph.initializer[:]
    free.graph.initializer.extend(kept)
    free.graph.input.extend(helper.make_tensor_value_info(p.name, kinds[p.name], p.shape) for p in table)
    data: bytes = free.SerializeToString(deterministic=True)
    return data


def forward_with(model: ModelProto, params: Mapping[str, FloatArray]) -> ModelProto:
    """A copy of a forward model, in evaluation form, that holds `params`.

    A parameter that `params` leaves out keeps its value.

    Raises UsageError for a name the model does not have and for a shape that differs.
    """
    filled = evaluation_form(model)
    shapes = {p.name: p.shape for p in parameter_table(model)}
    for name, value in params.items():
        if name not in shapes:
            raise UsageError(f"the model has no parameter {name!r}: give values made from the same model")
        if value.shape != shapes[name]:
            raise UsageError(
                f"parameter {name!r} has the shape {shapes[name]}, not {value.shape}: give values that fit"
            )
    for tensor in filled.graph.initializer:
        if tensor.name in params:
            values = np.ascontiguousarray(params[tensor.name], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return filled
