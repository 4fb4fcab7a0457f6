"""The artifacts of a run: one per training engine, built when a device first needs it, published by content hash."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.engines.registry import engine_names
from device_runtime.store import BlobStore
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.tensors import encode_files
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.model import ForwardModel


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact: the blob's name and its manifest."""

    graph_sha: str
    manifest: Manifest


class Artifacts:
    """Builds what is asked for, once, and remembers what cannot be built."""

    def __init__(self, folder: Path, blobs: BlobStore, model: ForwardModel, spec: ArtifactSpec) -> None:
        self._folder = folder
        self._blobs = blobs
        self._model, self._spec = model, spec
        self._built: dict[str, Artifact] = {}
        self._refused: dict[str, str] = {}

    def folder(self, engine: str) -> Path:
        """Where the engine's artifact is, or would be."""
        return self._folder / engine

    def for_any(self) -> tuple[str, Artifact]:
        """The artifact for the first of all engines, best first, that can be built here. Raises as `for_engines`."""
        return self.for_engines(engine_names())

    def for_engines(self, engines: Sequence[str]) -> tuple[str, Artifact]:
        """The artifact for the first of a device's engines that can be built here, and that engine's name.

        Raises EngineError when none can, saying why, and UsageError where the model itself is at fault.
        """
        for engine in engines:
            if engine not in self._built and engine not in self._refused:
                self._build(engine)
            if engine in self._built:
                return engine, self._built[engine]
        why = " ".join(self._refused[engine] for engine in engines) or f"known engines: {', '.join(engine_names())}."
        raise EngineError(f"no artifact can be made for engines {', '.join(engines) or '(none)'}: {why}")

    def _build(self, engine: str) -> None:
        """Build and publish the artifact, or keep why it cannot be."""
        folder = self.folder(engine)
        try:
            manifest = writer_of(engine)(self._model, self._spec, folder)
        except EngineError as error:
            self._refused[engine] = str(error)
            return
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self._built[engine] = Artifact(self._blobs.put(encode_files(files)), manifest)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the first artifact built: parameters, input and costs are the same in all."""
        return next(iter(self._built.values())).manifest

    @property
    def shas(self) -> set[str]:
        """Hashes of all that was published."""
        return {artifact.graph_sha for artifact in self._built.values()}
