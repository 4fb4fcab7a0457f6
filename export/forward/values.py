"""A forward model with other values: parameters as graph inputs, or given values in place of its own."""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import FloatArray
from export.forward.model import ForwardModel
from export.forward.modes import evaluation_form, training_form


def parameterised_forward(model: ForwardModel) -> bytes:
    """The evaluation form of a forward model as ONNX bytes, with every parameter a graph input of its own name.

    Inputs are `input` and then the parameters in table order, statistics too; the parameters' initializers are gone.
    One onnxruntime.InferenceSession of it evaluates any number of parameter sets.

    Raises UsageError as `parameter_table` does.
    """
    data: bytes = _with_free_parameters(evaluation_form(model.proto), model).SerializeToString(deterministic=True)
    return data


def _with_free_parameters(form: ModelProto, model: ForwardModel) -> ModelProto:
    """`form`, a form of `model`, with every parameter a graph input; changed in place."""
    names = {p.name for p in model.parameters}
    kept = [tensor for tensor in form.graph.initializer if tensor.name not in names]
    kinds = {tensor.name: tensor.data_type for tensor in form.graph.initializer}
    del form.graph.initializer[:]
    form.graph.initializer.extend(kept)
    form.graph.input.extend(helper.make_tensor_value_info(p.name, kinds[p.name], p.shape) for p in model.parameters)
    return form


def batch_statistics(model: ForwardModel) -> bytes:
    """A graph like `parameterised_forward`'s that gives, for one batch, every running statistic of the model.

    Batch normalisations normalise by the batch, so a layer sees what it will see once the layers before it have their
    new statistics. The outputs bear the names of the statistics with the suffix ".batch", mean and (biased) variance of
    one normalisation after the other.
    """
    graph_form = _with_free_parameters(training_form(model.proto), model)
    graph = graph_form.graph
    del graph.output[:]
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            # Momentum 0 gives the batch's own statistics instead of a mixture with the old ones.
            others = [a for a in node.attribute if a.name != "momentum"]
            del node.attribute[:]
            node.attribute.extend([*others, helper.make_attribute("momentum", 0.0)])
            for statistic, position in zip(node.input[3:5], (1, 2), strict=True):
                node.output[position] = f"{statistic}.batch"
                graph.output.append(helper.make_tensor_value_info(f"{statistic}.batch", TensorProto.FLOAT, None))
    data: bytes = graph_form.SerializeToString(deterministic=True)
    return data


def forward_with(model: ForwardModel, params: Mapping[str, FloatArray]) -> ForwardModel:
    """A copy of a forward model, in evaluation form, that holds `params`.

    A parameter that `params` leaves out keeps its value.

    Raises UsageError for a name the model does not have and for a shape that differs.
    """
    filled = evaluation_form(model.proto)
    shapes = {p.name: p.shape for p in model.parameters}
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
    return ForwardModel(filled)
