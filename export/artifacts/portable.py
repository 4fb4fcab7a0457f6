"""The portable artifact of a forward model: a folder with the train step in standard operators and its manifest."""

from pathlib import Path

import msgspec
from onnx import ModelProto

from device_runtime.wire.manifest import MANIFEST_FILE, InputSpec, Loss, Manifest, Optimizer, encode_manifest
from export.artifacts.folder import check_model, describe, whole_folder
from export.forward.costs import cost_table
from export.forward.reading import opset
from export.train_step import train_step

ENGINE = "portable"
TRAIN_STEP = "train_step.onnx"
EVAL = "eval.onnx"


def write_portable_artifact(
    model: ModelProto,
    folder: Path,
    *,
    name: str,
    input: InputSpec,
    class_count: int,
    loss: Loss,
    optimizer: Optimizer,
) -> Manifest:
    """Write the portable artifact of a forward model into `folder` and give its manifest.

    The folder appears whole or not at all, replaces an artifact that was there, and is a function of the arguments:
    the same model (its initial values apart, which are not part of it) gives the same bytes. What the graphs take and
    give is described at `TrainStep`; the optimizer's step is always part of the graph.
    loss: "cross_entropy" takes int64 labels [batch], the others float32 labels of the output's shape.

    Raises UsageError for a model that does not fit `input` or `class_count`, for a folder that holds something else,
    and as `train_step` does.
    """
    check_model(model, input.shape, class_count, loss)
    in_graph = msgspec.structs.replace(optimizer, where="graph")
    step = train_step(model, loss=loss, optimizer=in_graph)
    costs = cost_table(model)
    with whole_folder(folder) as unfinished:
        for file, graph in ((EVAL, step.evaluate), (TRAIN_STEP, step.train)):
            (unfinished / file).write_bytes(graph.SerializeToString(deterministic=True))
        manifest = Manifest(
            model=name,
            engine=ENGINE,
            input=input,
            class_count=class_count,
            loss=loss,
            optimizer=in_graph,
            parameters=step.parameters,
            costs=costs,
            files=tuple(describe(unfinished / file) for file in (EVAL, TRAIN_STEP)),
            opset=opset(step.train),
            ir_version=step.train.ir_version,
            states=step.states,
        )
        (unfinished / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest
