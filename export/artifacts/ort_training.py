"""The training artifact of a forward model: a folder with the official graphs and the manifest about them."""

from pathlib import Path

from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest, Optimizer
from export.artifacts.folder import check_model, finish, whole_folder
from export.artifacts.ort_training_graphs import write_graphs
from export.artifacts.spec import ArtifactSpec
from export.forward.model import ForwardModel

ENGINE = "ort_training"


def write_training_artifact(model: ForwardModel, spec: ArtifactSpec, folder: Path) -> Manifest:
    """See `Writer`; raises as it says, EngineError also where onnxruntime-training is missing, and for an optimizer of
    which this engine cannot do what is asked."""
    check_model(model, spec)
    _check_optimizer(spec.optimizer, spec.scores)
    with whole_folder(folder) as unfinished:
        files = write_graphs(model, unfinished, spec.loss, spec.optimizer)
        return finish(unfinished, spec, engine=ENGINE, files=files, model=model)


def _check_optimizer(optimizer: Optimizer, scores: bool) -> None:
    asked = {"proximal_mu": optimizer.proximal_mu, "clip_norm": optimizer.clip_norm}
    if names := [f"{name} {value:g}" for name, value in asked.items() if value]:
        raise EngineError(
            f"engine {ENGINE} applies no {' and no '.join(names)}: train with engine portable, or set them to 0."
        )
    if scores and optimizer.name == "adamw":
        raise EngineError(
            f"engine {ENGINE} cannot begin AdamW anew for single weights, which masks that move on a device need: "
            "train with engine portable, or choose sgd."
        )
