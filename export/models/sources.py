"""Where a model comes from: a name of the zoo, a user's torch factory, or an ONNX file."""

from pathlib import Path

from device_runtime.wire.errors import UsageError
from export.forward.model import ForwardModel
from export.models.zoo import build_model


def load_model(
    *, zoo: str, torch: str, onnx_file: str, input_shape: tuple[int, ...], class_count: int, seed: int
) -> ForwardModel:
    """The forward model from `torch` ("package.module:factory") or `onnx_file` if given, else `zoo` from the zoo.

    Raises UsageError when both are given, and where the source itself does.
    """
    if torch and onnx_file:
        raise UsageError("a model comes from torch or from an ONNX file: give one of the two")
    if torch:
        from export.models.torch_import import import_torch

        return import_torch(torch, input_shape)
    if onnx_file:
        from export.models.onnx_import import import_onnx

        return import_onnx(Path(onnx_file))
    return build_model(zoo, input_shape, class_count, seed)
