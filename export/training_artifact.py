"""The training artifact of a forward model: a folder with the official graphs and the manifest about them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto, ValueInfoProto

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import (
    MANIFEST_FILE,
    ArtifactFile,
    InputSpec,
    Loss,
    Manifest,
    Optimizer,
    encode_manifest,
)
from device_runtime.wire.support import sha256_hex
from export.costs import cost_table
from export.graph import INPUT, IR_VERSION_MAX, OPSET_MAX, OUTPUT
from export.parameters import parameter_table
from export.reading import free_inputs, opset
from export.training_graphs import write_graphs

ENGINE = "ort_training"


def write_training_artifact(
    model: ModelProto,
    folder: Path,
    *,
    name: str,
    input: InputSpec,
    class_count: int,
    loss: Loss,
    optimizer: Optimizer,
) -> Manifest:
    """Write the artifact of a forward model into `folder` and give its manifest.

    The folder appears whole or not at all, replaces an artifact that was there, and is a function of the arguments:
    the same model (its initial values apart, which are not part of it) gives the same bytes.
    loss: "cross_entropy" takes int64 labels [batch], "mse" float32 labels of the output's shape.

    Raises UsageError for a model that does not fit `input`, `class_count` or the runtime, and for a folder that holds
    something else; EngineError where onnxruntime-training is missing or cannot differentiate the model.
    """
    _check_model(model, input.shape, class_count, loss)
    parameters = parameter_table(model)
    costs = cost_table(model)
    with _whole_folder(folder) as unfinished:
        files = write_graphs(model, parameters, unfinished, loss, optimizer)
        manifest = Manifest(
            model=name,
            engine=ENGINE,
            input=input,
            class_count=class_count,
            loss=loss,
            optimizer=optimizer,
            parameters=parameters,
            costs=costs,
            files=tuple(_describe(unfinished / file) for file in sorted(files)),
            opset=opset(model),
            ir_version=model.ir_version,
        )
        (unfinished / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def _describe(path: Path) -> ArtifactFile:
    data = path.read_bytes()
    return ArtifactFile(name=path.name, sha=sha256_hex(data), size_bytes=len(data))


def _check_model(model: ModelProto, input_shape: tuple[int, ...], class_count: int, loss: Loss) -> None:
    inputs = free_inputs(model.graph)
    if [i.name for i in inputs] != [INPUT] or [o.name for o in model.graph.output] != [OUTPUT]:
        raise UsageError(
            f"the model has the inputs {[i.name for i in inputs]} and outputs {[o.name for o in model.graph.output]}: "
            f"give a model with one input {INPUT!r} and one output {OUTPUT!r}"
        )
    if model.ir_version > IR_VERSION_MAX or not 0 < opset(model) <= OPSET_MAX:
        raise UsageError(
            f"the model has IR version {model.ir_version} and opset {opset(model)}: "
            f"export it with at most IR version {IR_VERSION_MAX} and opset {OPSET_MAX}"
        )
    shape, result = _sample_shape(inputs[0]), _sample_shape(model.graph.output[0])
    if shape != input_shape:
        raise UsageError(f"the model takes input of shape {shape}, not {input_shape}: change one of the two")
    if loss == "cross_entropy" and result and result != (class_count,):
        raise UsageError(f"the model gives outputs of shape {result}, not {class_count} classes: change one of the two")


def _sample_shape(info: ValueInfoProto) -> tuple[int, ...]:
    """The shape without the batch axis, 0 for an open axis."""
    return tuple(d.dim_value for d in info.type.tensor_type.shape.dim[1:])


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and goes when it does not."""
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not _replaceable(folder):
        raise UsageError(f"{folder} exists and is no training artifact: choose another folder or empty it")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.replaced")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST_FILE).is_file() or not any(folder.iterdir()))
