"""What artifact folders have in common: they appear whole or not at all, vouch for their files and fit their model."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto

from device_runtime.engines.registry import engine_kind
from device_runtime.guard.artifact import check_artifact
from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.manifest import (
    MANIFEST_FILE,
    ArtifactFile,
    Manifest,
    Optimizer,
    State,
    decode_manifest,
    encode_manifest,
)
from device_runtime.wire.support import sha256_hex
from export.artifacts.spec import ArtifactSpec
from export.forward.form import INPUT, IR_VERSION_MAX, OPSET_MAX, OUTPUT
from export.forward.model import ForwardModel
from export.forward.reading import opset


def _describe(name: str, data: bytes) -> ArtifactFile:
    """The manifest's entry for a file of the folder."""
    return ArtifactFile(name=name, sha=sha256_hex(data), size_bytes=len(data))


def finish(
    folder: Path,
    spec: ArtifactSpec,
    *,
    engine: str,
    files: Iterable[str],
    model: ForwardModel,
    graph: ModelProto | None = None,
    optimizer: Optimizer | None = None,
    states: tuple[State, ...] = (),
    kernel: str = "masked-dense",
    costs: tuple[NodeCost, ...] | None = None,
) -> Manifest:
    """Write the manifest of a folder that holds all `files`, and give it.

    graph: the one whose opset and IR version a runtime must know, the model's own where the engine's files hold none.
    optimizer: the spec's where the engine changes nothing about it.

    Raises UsageError for what every device would refuse, such as an operator that no train step of the engine has.
    """
    made = {file: (folder / file).read_bytes() for file in sorted(files)}
    manifest = Manifest(
        model=spec.name,
        engine=engine,
        input=spec.input,
        class_count=spec.class_count,
        loss=spec.loss,
        optimizer=optimizer or spec.optimizer,
        parameters=model.parameters,
        costs=model.costs if costs is None else costs,
        files=tuple(_describe(name, data) for name, data in made.items()),
        opset=opset(graph or model.proto),
        ir_version=(graph or model.proto).ir_version,
        kernel=kernel,
        states=states,
    )
    made[MANIFEST_FILE] = encode_manifest(manifest)
    try:
        check_artifact(decode_manifest(made[MANIFEST_FILE]), made, engine_kind(engine).operators)
    except RemoteWireError as error:
        raise UsageError(f"no device would train model {spec.name!r} with engine {engine}: {error}") from error
    (folder / MANIFEST_FILE).write_bytes(made[MANIFEST_FILE])
    return manifest


def check_model(model: ForwardModel, spec: ArtifactSpec) -> None:
    """Raises UsageError for a model that does not fit the spec's input and outputs, or the oldest runtime."""
    inputs, outputs = model.inputs, model.outputs
    if list(inputs) != [INPUT] or list(outputs) != [OUTPUT]:
        raise UsageError(
            f"the model has the inputs {list(inputs)} and outputs {list(outputs)}: "
            f"give a model with one input {INPUT!r} and one output {OUTPUT!r}"
        )
    if model.ir_version > IR_VERSION_MAX or not 0 < model.opset <= OPSET_MAX:
        raise UsageError(
            f"the model has IR version {model.ir_version} and opset {model.opset}: "
            f"export it with at most IR version {IR_VERSION_MAX} and opset {OPSET_MAX}"
        )
    shape, result = inputs[INPUT], outputs[OUTPUT]
    if shape != spec.input.shape:
        raise UsageError(f"the model takes input of shape {shape}, not {spec.input.shape}: change one of the two")
    if spec.loss == "cross_entropy" and result and result != (spec.class_count,):
        raise UsageError(
            f"the model gives outputs of shape {result}, not {spec.class_count} classes: change one of the two"
        )


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
