"""Forward models from ONNX files, brought into the one form the rest of `export` reads (`export.forward.form`)."""

from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, version_converter

from device_runtime.wire.errors import UsageError
from export.forward.form import BATCH, INPUT, IR_VERSION_MAX, OPSET, OPSET_MAX, OUTPUT
from export.forward.model import ForwardModel
from export.forward.modes import evaluation_form
from export.forward.reading import constant_tensor, free_inputs, label, opset

# BatchNormalization has its present training form since this version.
OPSET_MIN = 15
_READERS_OF_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def import_onnx(path: Path) -> ForwardModel:
    """The forward model in an ONNX file (with its external data beside it, if any).

    Weights held by Constant nodes become initializers.

    Raises UsageError for a missing or malformed file and as `as_forward` does.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): give an ONNX file") from error
    except Exception as error:  # protobuf's and the checker's own families, which have no common base
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path} is not a valid ONNX model ({reason}): export it again") from error
    _lift_weights(model)
    return as_forward(model, str(path))


def as_forward(model: ModelProto, source: str) -> ForwardModel:
    """A copy of `model` in the one form; `source` names it in messages.

    Raises UsageError for several inputs or outputs, an input that is not float32, control flow, a batch axis that is
    fixed inside the graph, and an opset that cannot be converted.
    """
    forward = evaluation_form(_with_opset(model, source))
    _check_structure(forward, source)
    kept = free_inputs(forward.graph)
    _rename(forward, kept[0].name, INPUT)
    _rename(forward, forward.graph.output[0].name, OUTPUT)
    del forward.graph.input[:]
    forward.graph.input.extend(kept)
    _open_batch(forward, source)
    forward.ir_version = min(forward.ir_version, IR_VERSION_MAX)
    return ForwardModel(forward)


def _with_opset(model: ModelProto, source: str) -> ModelProto:
    version = opset(model)
    if OPSET_MIN <= version <= OPSET_MAX:
        return model
    try:
        return version_converter.convert_version(model, OPSET if version < OPSET_MIN else OPSET_MAX)
    except RuntimeError as error:
        raise UsageError(
            f"{source} uses opset {version}, which cannot be converted ({str(error).partition(chr(10))[0]}): "
            f"export it with opset {OPSET}"
        ) from error


def _check_structure(model: ModelProto, source: str) -> None:
    inputs = free_inputs(model.graph)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UsageError(
            f"{source} has {len(inputs)} inputs and {len(model.graph.output)} outputs: "
            "give a model with one input and one output"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) < 2:
        raise UsageError(f"the input {inputs[0].name!r} of {source} must be float32 with a batch axis in front")
    for node in model.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise UsageError(f"node {label(node)!r} of {source} is control flow: export the model without branches")


def _open_batch(model: ModelProto, source: str) -> None:
    """Make the batch axis symbolic, and see by inference that nothing inside fixes it."""
    graph = model.graph
    _name_batch(graph.input[0])
    graph.output[0].type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output[0]
    dims = inferred.type.tensor_type.shape.dim
    if not dims or dims[0].HasField("dim_value"):
        found = f"fixes the batch to {dims[0].dim_value}" if dims else "hides the shape of the output"
        raise UsageError(f"{source} {found}: export it with a dynamic batch axis")
    graph.output[0].CopyFrom(inferred)
    _name_batch(graph.output[0])


def _name_batch(info: ValueInfoProto) -> None:
    info.type.tensor_type.shape.dim[0].dim_param = BATCH


def _rename(model: ModelProto, old: str, new: str) -> None:
    """Rename a value wherever it occurs; a value that has the new name already makes way."""
    if old == new:
        return
    graph = model.graph
    taken = {v for node in graph.node for v in [*node.input, *node.output]} | {t.name for t in graph.initializer}
    mapping = {old: new}
    if new in taken:
        aside = f"{new}.1"
        while aside in taken:
            aside += "1"
        mapping[new] = aside
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [mapping.get(value, value) for value in values]
    for named in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        named.name = mapping.get(named.name, named.name)


def _lift_weights(model: ModelProto) -> None:
    """Turn Constant nodes that a contraction or normalisation reads into initializers."""
    read = {v for node in model.graph.node if node.op_type in _READERS_OF_WEIGHTS for v in node.input}
    kept = []
    for node in model.graph.node:
        tensor = constant_tensor(node) if node.output and node.output[0] in read else None
        if tensor is None:
            kept.append(node)
        else:
            model.graph.initializer.append(tensor)
    del model.graph.node[:]
    model.graph.node.extend(kept)
