"""The training artifact of a forward model: a folder with the official graphs and the manifest about them."""

from pathlib import Path

from onnx import ModelProto

from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import MANIFEST_FILE, InputSpec, Loss, Manifest, Optimizer, encode_manifest
from export.artifacts.folder import check_model, describe, whole_folder
from export.artifacts.ort_training_graphs import write_graphs
from export.forward.costs import cost_table
from export.forward.parameters import parameter_table
from export.forward.reading import opset

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
    loss: "cross_entropy" takes int64 labels [batch], the others float32 labels of the output's shape.

    Raises UsageError for a model that does not fit `input`, `class_count` or the runtime, and for a folder that holds
    something else; EngineError where onnxruntime-training is missing or cannot differentiate the model, and for a
    proximal term or clipping, which this engine does not apply.
    """
    check_model(model, input.shape, class_count, loss)
    _check_optimizer(optimizer)
    parameters = parameter_table(model)
    costs = cost_table(model)
    with whole_folder(folder) as unfinished:
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
            files=tuple(describe(unfinished / file) for file in sorted(files)),
            opset=opset(model),
            ir_version=model.ir_version,
        )
        (unfinished / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def _check_optimizer(optimizer: Optimizer) -> None:
    asked = {"proximal_mu": optimizer.proximal_mu, "clip_norm": optimizer.clip_norm}
    if names := [f"{name} {value:g}" for name, value in asked.items() if value]:
        raise EngineError(
            f"engine {ENGINE} applies no {' and no '.join(names)}: train with engine portable, or set them to 0."
        )
