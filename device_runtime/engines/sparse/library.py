"""The library of compiled sparse operators: whether it is installed, where it lies, and how it is told of threads."""

import ctypes
import importlib.util
from pathlib import Path

from device_runtime.wire.errors import EngineError

DISTRIBUTION = "espalier-kernels"
_PACKAGE = "espalier_kernels"
_REMEDY = f"install {DISTRIBUTION} of this release: `pip install --upgrade {DISTRIBUTION}`"


class KernelsLibrary:
    """The library, loaded into this process.

    Raises EngineError where it is not installed, or cannot run on this machine.
    """

    def __init__(self) -> None:
        path = find_library()
        if path is None:
            raise EngineError(f"the compiled sparse operators are not installed here: {_REMEDY}.")
        self.path = path
        try:
            self._loaded = ctypes.CDLL(str(self.path))
            self._loaded.espalier_kernels_instructions.restype = ctypes.c_char_p
            self.version = int(self._loaded.espalier_kernels_version())
            self.instructions = str(self._loaded.espalier_kernels_instructions().decode())
        except (OSError, AttributeError) as error:
            raise EngineError(f"{self.path} does not load on this machine ({error}): {_REMEDY}.") from error

    def share_among(self, threads: int) -> None:
        """Divide the work of every call for so many threads. Results do not depend on it."""
        self._loaded.espalier_kernels_set_threads(ctypes.c_int(threads))

    def missing_operator(self, reason: str) -> EngineError:
        """The error about an artifact that asks for other operators than this library has."""
        return EngineError(
            f"the artifact needs sparse operators that version {self.version} of the library does not have ({reason}): "
            f"{_REMEDY}, or upgrade the aggregator."
        )


def find_library() -> Path | None:
    """Where the library lies, None where it is not installed. Nothing is imported."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).with_name(f"{_PACKAGE}.so")
    return path if path.is_file() else None
