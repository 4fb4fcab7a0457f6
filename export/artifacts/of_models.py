"""An artifact of a zoo model for an engine by name: what `espalier device profile --model` asks for.

Registered as `model` in the entry-point group `espalier.artifacts`, so that the device needs no import of `export`.
"""

from pathlib import Path

from device_runtime.wire.manifest import InputSpec
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.sources import load_model
from export.options import parse_shape
from export.steps.optimizers import choose_optimizer

_SEED = 0


def write_model_artifact(model: str, engine: str, folder: Path, *, input_shape: str, class_count: int) -> None:
    """Write the artifact of zoo model `model` for `engine` into `folder`: cross entropy, plain SGD.

    Raises UsageError for an unknown model or shape, EngineError for an unknown engine and where it cannot be made here.
    """
    write = writer_of(engine)
    shape = parse_shape(input_shape)
    forward = load_model(zoo=model, torch="", onnx_file="", input_shape=shape, class_count=class_count, seed=_SEED)
    spec = ArtifactSpec(
        name=model,
        input=InputSpec(shape=shape),
        class_count=class_count,
        loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
    )
    write(forward, spec, folder)
