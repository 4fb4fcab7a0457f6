"""The door to onnxruntime-training's artifact generator, opened without needing torch, log spam or chance names.

`import onnxruntime.training` imports torch and fails where it is missing, though generating artifacts needs none of it.
So a bare module of that name, with the real search path, is put in place first; the sub-modules below it then import.
"""

import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_runtime.wire.errors import EngineError

PACKAGE = "onnxruntime.training"
# What the generator writes on stderr for every graph transformation, at the lowest two severities.
_CHATTER = (b"[I:onnxruntime", b"[V:onnxruntime")


def artifact_generator() -> tuple[Any, Any]:
    """The modules `onnxruntime.training.artifacts` and `onnxruntime.training.onnxblock`, ready for one generation.

    Names that the generator makes up are counted from one again, so that a generation gives the same names however
    many came before it in this process.

    Raises EngineError where onnxruntime-training is not installed.
    """
    runtime = _import_runtime()
    if PACKAGE not in sys.modules:
        folder = Path(runtime.__file__).parent / "training"
        bare = types.ModuleType(PACKAGE)
        bare.__path__ = [str(folder)]
        sys.modules[PACKAGE] = bare
        runtime.training = bare
    artifacts = importlib.import_module(f"{PACKAGE}.artifacts")
    onnxblock = importlib.import_module(f"{PACKAGE}.onnxblock")
    names: Any = importlib.import_module(f"{PACKAGE}.onnxblock._graph_utils")
    names._GRAPH_TOKEN = 0
    # A block that goes out of use deletes a file `temp.onnx` of the current directory, whoever wrote it. Blocks write
    # one only for models given by path, which Espalier never does, so there is nothing to delete.
    if "__del__" in vars(onnxblock.Block):
        del onnxblock.Block.__del__
    return artifacts, onnxblock


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep the generator's informational lines off stderr, and pass every other line on when the block ends.

    They are written by C++ code to file descriptor 2, whatever severity the default logger has; so the descriptor
    itself is redirected to a temporary file meanwhile.
    """
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            captured.seek(0)
            rest = b"".join(line for line in captured if not any(mark in line for mark in _CHATTER))
            if rest:
                os.write(2, rest)


def _import_runtime() -> Any:
    """onnxruntime with its training bindings; torch stays out, because its package is blocked during the import."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise EngineError(f"onnxruntime is not installed: {_REMEDY}")
    blocked = "onnxruntime" not in sys.modules and PACKAGE not in sys.modules
    if blocked:
        sys.modules[PACKAGE] = None  # type: ignore[assignment]  # None is how an import is blocked
    try:
        runtime = importlib.import_module("onnxruntime")
        bindings = importlib.import_module("onnxruntime.capi._pybind_state")
    except ImportError as error:
        raise EngineError(f"onnxruntime is broken ({error}): {_REMEDY}") from error
    finally:
        if blocked:
            del sys.modules[PACKAGE]
    if not hasattr(bindings, "GradientGraphBuilder"):
        raise EngineError(f"the onnxruntime installed here has no training operators: {_REMEDY}")
    return runtime


_REMEDY = (
    "uninstall onnxruntime, which owns the same folder, and install onnxruntime-training-cpu==1.19.2 "
    "(x86-64, Python 3.8 to 3.12)"
)
