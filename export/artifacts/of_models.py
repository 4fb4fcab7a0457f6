"""An artifact of a zoo model for an engine by name: what `espalier device profile --model` asks for.

Registered as `model` in the entry-point group `espalier.artifacts`, so that the device needs no import of `export`.
"""

from pathlib import Path

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from export.artifacts.ort_training import write_training_artifact
from export.artifacts.portable import write_portable_artifact
from export.commands import parse_shape
from export.models.sources import load_model
from export.steps.optimizers import choose_optimizer

_WRITERS = {"ort_training": write_training_artifact, "portable": write_portable_artifact}
_SEED = 0


def write_model_artifact(model: str, engine: str, folder: Path, *, input_shape: str, class_count: int) -> None:
    """Write the artifact of zoo model `model` for `engine` into `folder`: cross entropy, plain SGD.

    Raises UsageError for an unknown model, engine or shape, EngineError where it cannot be made here.
    """
    if engine not in _WRITERS:
        raise UsageError(f"no artifact can be made for engine {engine!r}: choose one of {', '.join(_WRITERS)}")
    shape = parse_shape(input_shape)
    forward = load_model(zoo=model, torch="", onnx_file="", input_shape=shape, class_count=class_count, seed=_SEED)
    _WRITERS[engine](
        forward,
        folder,
        name=model,
        input=InputSpec(shape=shape),
        class_count=class_count,
        loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
    )
