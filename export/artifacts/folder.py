"""What artifact folders have in common: they appear whole or not at all, vouch for their files and fit their model."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto, ValueInfoProto

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import MANIFEST_FILE, ArtifactFile, Loss
from device_runtime.wire.support import sha256_hex
from export.forward.reading import free_inputs, opset
from export.models.graph import INPUT, IR_VERSION_MAX, OPSET_MAX, OUTPUT


def describe(path: Path) -> ArtifactFile:
    """The manifest's entry for a file of the folder."""
    data = path.read_bytes()
    return ArtifactFile(name=path.name, sha=sha256_hex(data), size_bytes=len(data))


def check_model(model: ModelProto, input_shape: tuple[int, ...], class_count: int, loss: Loss) -> None:
    """Raises UsageError for a model that does not fit `input_shape`, `class_count` or the oldest runtime."""
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
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and goes when it does not.

    Raises UsageError where `folder` holds something that is no artifact.
    """
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
