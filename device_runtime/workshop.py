"""Where assignments become updates: the opened artifact, the local data and the device's own tensors, kept together.

All of it runs on the worker, one assignment at a time.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from device_runtime.data import LocalData
from device_runtime.engines.interface import first_line
from device_runtime.engines.registry import engine_kind
from device_runtime.guard.artifact import check_artifact
from device_runtime.personal_file import PersonalFiles
from device_runtime.store import BlobStore, write_atomic
from device_runtime.training import REFUSALS, Result, Traffic, Workbench, open_workbench
from device_runtime.wire.errors import EngineError, LocalWireError
from device_runtime.wire.manifest import MANIFEST_FILE, decode_manifest
from device_runtime.wire.messages import Assignment
from device_runtime.wire.tensors import decode_files

log = logging.getLogger("espalier.device")


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an assignment: a result, or the reason why there is none."""

    assignment: Assignment
    result: Result | None
    reason: str


class Workshop:
    """Carries out assignments whose blobs are in the store. `step_count` grows with every training step made."""

    def __init__(
        self, folder: Path, blobs: BlobStore, data: LocalData, personal: PersonalFiles, *, threads: int
    ) -> None:
        self.step_count = 0
        self._folder = folder
        self._blobs = blobs
        self._data = data
        self._personal = personal
        self._threads = threads
        self._bench: tuple[str, Workbench] | None = None

    def carry_out(self, assignment: Assignment, traffic: Traffic) -> Finished:
        """Train one assignment; what a person or a peer may have caused is a reason, not an error."""
        try:
            return Finished(assignment, self._work(assignment, traffic), "")
        except (*REFUSALS, LocalWireError) as error:
            return Finished(assignment, None, str(error))
        except MemoryError:
            return Finished(assignment, None, "out of memory")

    def _work(self, assignment: Assignment, traffic: Traffic) -> Result:
        bench = self._open(assignment)
        params, supports = (self._blobs.get(s) for s in (assignment.params_sha, assignment.support_shas[0]))
        if params is None or supports is None:
            raise EngineError("a blob of the assignment vanished from the store; it will be fetched again.")
        personal = self._personal.begin(assignment, bench.manifest)
        result = bench.carry_out(assignment, params, supports, traffic, self._progress, personal)
        self._personal.keep(assignment, result.personal_before, result.personal)
        log.info("round %d trained: %d steps", assignment.model_version, result.measurement.step_count)
        return result

    def _open(self, assignment: Assignment) -> Workbench:
        """The workbench for the assignment's graph, opened once per graph. The one before is let go first."""
        if self._bench is None or self._bench[0] != assignment.graph_sha:
            self._bench = None
            folder = self._unpack(assignment.graph_sha)
            self._bench = (assignment.graph_sha, self._opened(folder, assignment.hyper.seed))
        return self._bench[1]

    def _opened(self, folder: Path, seed: int) -> Workbench:
        try:
            return open_workbench(folder, self._data, threads=self._threads, seed=seed)
        except (*REFUSALS, MemoryError):
            raise
        except Exception as error:  # a graph that does not fit its manifest fails in ways that no engine foresees
            raise EngineError(f"the artifact does not open: {type(error).__name__}: {first_line(error)}") from error

    def _unpack(self, graph_sha: str) -> Path:
        """The artifact as a folder of files that a runtime may open, written once."""
        folder = self._folder / "artifacts" / graph_sha[:16]
        data = self._blobs.get(graph_sha)
        if data is None:
            raise EngineError("the artifact vanished from the store; it will be fetched again.")
        files = decode_files(data)
        manifest = decode_manifest(files.get(MANIFEST_FILE, b""))
        check_artifact(manifest, files, engine_kind(manifest.engine).operators)
        for name, content in files.items():
            path = folder / name
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content)
        return folder

    def _progress(self, _done: int, _total: int, _loss: float) -> None:
        """Every step feeds the watchdog's question whether training goes on."""
        self.step_count += 1
