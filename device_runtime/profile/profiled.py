"""Trainers that keep onnxruntime's profile of every node they run, one for each engine; all other options are those of
the timed run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from device_runtime.engines.host_optimizer import HostSgd
from device_runtime.engines.interface import StepStats
from device_runtime.engines.ort_training import OrtTrainer
from device_runtime.engines.portable import PortableTrainer
from device_runtime.profile.trace import OPTIMIZER, Node, read_trace
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.support import FloatArray, Kept

_FLOAT_BYTES = 4


class ProfiledTrainer(Protocol):
    """What a run with the profiler needs of a trainer."""

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """As `engines.interface.Trainer`."""

    def step(self, x: FloatArray, y: Any, lr: float) -> StepStats:
        """As `engines.interface.Trainer`."""

    def nodes(self) -> list[Node]:
        """Every node that ran, its durations of all steps. Ends the trainer. Raises EngineError for a profile that
        cannot be read."""


class ProfiledPortable(PortableTrainer):
    """Engine portable: one session, which is asked for its profile."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int, folder: Path) -> None:
        self._folder = folder
        super().__init__(artifact, manifest, threads=threads, seed=seed)

    def _options(self) -> Any:
        return _with_profiler(super()._options(), self._folder / "trace")

    def nodes(self) -> list[Node]:
        """See `ProfiledTrainer`."""
        return read_trace(Path(self._session.end_profiling()).read_text())


class ProfiledOrtTraining(OrtTrainer):
    """Engine ort_training: its bindings have no call that ends a profile, so a session writes it when it is deleted.

    Evaluation is left out: its session would write to the same file. An optimizer in numpy is timed from outside, and
    one in a graph of its own has a profile of its own.
    """

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int, folder: Path) -> None:
        self._folder, self._opened = folder, 0
        self._optimizer_ns: list[int] = []
        super().__init__(artifact, manifest, threads=threads, seed=seed)

    def _make_module(self, training: str, evaluation: str) -> Any:
        self._opened += 1  # a new start of the optimizer opens everything anew: the last profiles count
        return self._c.Module(training, self._state, None, self._cpu, self._profiled("module"))

    def _make_optimizer(self, path: str) -> Any:
        return self._c.Optimizer(path, self._state, self._cpu, self._profiled("optimizer"))

    def _profiled(self, kind: str) -> Any:
        return _with_profiler(self._options(), self._folder / f"{kind}-{self._opened}")

    def _optimize(self, lr: float) -> None:
        start = time.perf_counter_ns()
        super()._optimize(lr)
        self._optimizer_ns.append(time.perf_counter_ns() - start)

    def nodes(self) -> list[Node]:
        """See `ProfiledTrainer`. The buffers that the views show go with the session."""
        has_host_optimizer, size_bytes = self._host_optimizer is not None, self._optimizer_bytes()
        self._values, self._gradients, self._owners = {}, {}, []
        self._module = self._graph_optimizer = self._host_optimizer = self._state = None
        nodes = self._read("module")
        if has_host_optimizer:
            durations_us = tuple(t // 1000 for t in self._optimizer_ns)
            return [*nodes, Node(f"{OPTIMIZER}/host", HostSgd.__name__, durations_us, size_bytes)]
        return nodes + [replace(node, name=f"{OPTIMIZER}/{node.name}") for node in self._read("optimizer")]

    def _read(self, kind: str) -> list[Node]:
        found = sorted(self._folder.glob(f"{kind}-{self._opened}_*.json"))
        if not found:
            raise EngineError(f"onnxruntime-training wrote no profile of its {kind}.")
        return read_trace(found[-1].read_text())

    def _optimizer_bytes(self) -> int:
        """What a step of the optimizer in numpy reads and writes: weight and velocity both ways, the gradient once."""
        count = sum(int(self._values[name].size) for name in self._trained)
        return _FLOAT_BYTES * count * (5 if self.manifest.optimizer.momentum else 3)


PROFILED: dict[str, Callable[..., ProfiledTrainer]] = {
    "portable": ProfiledPortable,
    "ort_training": ProfiledOrtTraining,
}


def _with_profiler(options: Any, prefix: Path) -> Any:
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options
