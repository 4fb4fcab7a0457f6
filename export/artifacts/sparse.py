"""The sparse artifact of a forward model: as the portable one, but for a train step in compiled operators."""

from pathlib import Path

from device_runtime.wire.manifest import Manifest
from export.artifacts.portable import write_step_artifact
from export.artifacts.spec import ArtifactSpec
from export.forward.model import ForwardModel

ENGINE = "sparse"


def write_sparse_artifact(model: ForwardModel, spec: ArtifactSpec, folder: Path) -> Manifest:
    """See `Writer`; raises as it says, and as `train_step` does."""
    return write_step_artifact(model, spec, folder, engine=ENGINE, sparse=True)
