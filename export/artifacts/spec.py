"""What an artifact is made to, besides its model, and what a writer of artifacts is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_runtime.wire.manifest import InputSpec, Loss, Manifest, Optimizer
from export.forward.model import ForwardModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSpec:
    """One training task: what it is called, how raw data becomes input, and how the model is trained.

    loss: "cross_entropy" takes int64 labels [batch], the others float32 labels of the output's shape, whose width
    `class_count` then is.
    scores: whether devices may be asked to move their masks, for which an artifact must give `Trainer.scores`.
    """

    name: str
    input: InputSpec
    class_count: int
    loss: Loss
    optimizer: Optimizer
    scores: bool = False


class Writer(Protocol):
    """An engine's writer of artifacts, which its `EngineKind` names."""

    def __call__(self, model: ForwardModel, spec: ArtifactSpec, folder: Path) -> Manifest:
        """Write the artifact of a forward model into `folder` and give its manifest.

        The folder appears whole or not at all, replaces an artifact that was there, and is a function of model and
        spec: the same model (its initial values apart, which are not part of it) gives the same bytes.

        Raises UsageError for a model that does not fit the spec or the runtime, and for a folder that holds something
        else; EngineError where what the engine's writer needs is missing or cannot differentiate the model.
        """
        ...
