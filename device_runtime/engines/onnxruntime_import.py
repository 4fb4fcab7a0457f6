"""Importing onnxruntime without torch and without telemetry: the one door to it for device and aggregator.

`import onnxruntime` of the training wheel tries to import ORTModule, which pulls in torch (a second, 250 MB) wherever
torch is installed, and onnx besides. A None in `sys.modules` makes that one import fail, which onnxruntime's own
validation step swallows; afterwards it is removed, so that `onnxruntime.training` works for whoever asks for it.
Official stock wheels from 1.29 on carry telemetry, on by default.
"""

import importlib.metadata
import os
import sys
from types import ModuleType

from device_runtime.wire.errors import EngineError

_TRAINING = "onnxruntime.training"


def import_onnxruntime() -> ModuleType:
    """The onnxruntime package.

    Raises EngineError when it is not installed, or when both wheels that own its folder are.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    refuse_two_wheels()
    blocked = _TRAINING not in sys.modules and "onnxruntime" not in sys.modules
    if blocked:
        sys.modules[_TRAINING] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"onnxruntime does not import: {error}. Reinstall it in this environment.") from error
    finally:
        if blocked:
            del sys.modules[_TRAINING]
    module: ModuleType = onnxruntime
    return module


def refuse_two_wheels() -> None:
    """Raise EngineError when stock and training wheel are both installed: the second broke the first silently."""
    if _installed("onnxruntime") and _installed("onnxruntime-training-cpu"):
        raise EngineError(
            "both onnxruntime and onnxruntime-training-cpu are installed here, and they overwrite one another's files: "
            "uninstall both, then install espalier-fl again."
        )


def has_runtime() -> bool:
    """Whether any onnxruntime is installed here."""
    return _installed("onnxruntime") or has_training()


def has_training() -> bool:
    """Whether the training wheel is installed here."""
    return _installed("onnxruntime-training-cpu")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
