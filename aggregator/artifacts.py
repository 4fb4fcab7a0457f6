"""The artifacts of a run: one per training engine, built when a device first needs it, published by content hash."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from onnx import ModelProto

from device_runtime.store import BlobStore
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import InputSpec, Loss, Manifest, Optimizer
from device_runtime.wire.tensors import encode_files


class Writer(Protocol):
    """A function of `export` that writes an artifact folder and gives its manifest."""

    def __call__(
        self,
        model: ModelProto,
        folder: Path,
        *,
        name: str,
        input: InputSpec,
        class_count: int,
        loss: Loss,
        optimizer: Optimizer,
    ) -> Manifest: ...


def _on_demand(module: str, function: str) -> Writer:
    """A writer whose module is imported when it first writes: graph libraries are large, and most runs need one."""

    def write(*arguments: Any, **options: Any) -> Manifest:
        manifest: Manifest = getattr(importlib.import_module(module), function)(*arguments, **options)
        return manifest

    return write


WRITERS: dict[str, Writer] = {
    "ort_training": _on_demand("export.artifacts.ort_training", "write_training_artifact"),
    "portable": _on_demand("export.artifacts.portable", "write_portable_artifact"),
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact: the blob's name and its manifest."""

    graph_sha: str
    manifest: Manifest


class Artifacts:
    """Builds what is asked for, once. `write` is a writer with everything but the folder bound."""

    def __init__(self, folder: Path, blobs: BlobStore, write: Callable[[Writer, Path], Manifest]) -> None:
        self._folder = folder
        self._blobs = blobs
        self._write = write
        self._built: dict[str, Artifact] = {}

    def folder(self, engine: str) -> Path:
        """Where the engine's artifact is, or would be."""
        return self._folder / engine

    def for_engines(self, engines: Sequence[str]) -> tuple[str, Artifact]:
        """The artifact for the first of a device's engines that can be built here, and that engine's name.

        Raises EngineError when none can, saying why, and UsageError where the model itself is at fault.
        """
        reasons = []
        for engine in engines:
            try:
                return engine, self._get(engine)
            except EngineError as error:
                reasons.append(str(error))
        why = " ".join(reasons) or f"known engines: {', '.join(WRITERS)}."
        raise EngineError(f"no artifact can be made for engines {', '.join(engines) or '(none)'}: {why}")

    def _get(self, engine: str) -> Artifact:
        if engine not in self._built:
            if engine not in WRITERS:
                raise EngineError(f"engine {engine!r} is unknown here.")
            folder = self.folder(engine)
            manifest = self._write(WRITERS[engine], folder)
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
            self._built[engine] = Artifact(self._blobs.put(encode_files(files)), manifest)
        return self._built[engine]

    @property
    def manifest(self) -> Manifest:
        """The manifest of the first artifact built: parameters, input and costs are the same in all."""
        return next(iter(self._built.values())).manifest

    @property
    def shas(self) -> set[str]:
        """Hashes of all that was published."""
        return {artifact.graph_sha for artifact in self._built.values()}
