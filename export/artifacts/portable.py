"""The portable artifact of a forward model: a folder with the train step in standard operators and its manifest."""

from pathlib import Path

import msgspec

from device_runtime.wire.manifest import SCORES_FILE, Manifest
from export.artifacts.folder import check_model, finish, whole_folder
from export.artifacts.spec import ArtifactSpec
from export.forward.model import ForwardModel
from export.score_graph import score_graph
from export.sparse.costs import with_lists
from export.train_step import train_step

ENGINE = "portable"
TRAIN_STEP = "train_step.onnx"
EVAL = "eval.onnx"


def write_portable_artifact(model: ForwardModel, spec: ArtifactSpec, folder: Path) -> Manifest:
    """See `Writer`; raises as it says, and as `train_step` does.

    What the graphs take and give is described at `TrainStep`; the optimizer's step is always part of the graph.
    """
    return write_step_artifact(model, spec, folder, engine=ENGINE, sparse=False)


def write_step_artifact(
    model: ForwardModel, spec: ArtifactSpec, folder: Path, *, engine: str, sparse: bool
) -> Manifest:
    """The artifact of an engine that runs a `TrainStep`; see `write_portable_artifact`."""
    check_model(model, spec)
    in_graph = msgspec.structs.replace(spec.optimizer, where="graph")
    step = train_step(model, loss=spec.loss, optimizer=in_graph, sparse=sparse)
    graphs = {EVAL: step.evaluate, TRAIN_STEP: step.train}
    if spec.scores:
        graphs[SCORES_FILE] = score_graph(model, spec.loss)
    with whole_folder(folder) as unfinished:
        for file, graph in graphs.items():
            (unfinished / file).write_bytes(graph.SerializeToString(deterministic=True))
        return finish(
            unfinished, spec, engine=engine, files=graphs, model=model,
            graph=step.train, optimizer=in_graph, states=step.states,
            kernel="sparse" if sparse else "masked-dense",
            costs=with_lists(model.costs, step.train) if sparse else model.costs,
        )  # fmt: skip
