"""One federation from round to round: a model, the method of its settings, and submodels between them.

No MQTT and no clock: the service drives this over a broker, the in-process run of the benchmarks without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aggregator.core.method import Present, RunState
from aggregator.model import Evaluation, RunModel
from aggregator.settings import Settings
from aggregator.submodels import Submodels
from device_runtime.store import BlobStore
from device_runtime.wire.messages import Assignment, Offer

_TTL_DEADLINES = 10


@dataclass(frozen=True, slots=True, eq=False)
class RoundOutcome:
    """What closing one round gave: the next state, r and ψ of the devices that took part, the scores of the model."""

    state: RunState
    weights: Mapping[str, float]
    scores: Mapping[str, float]
    evaluation: Evaluation


class Federation:
    """The model, its artifacts, the method and the submodels; the state is passed in and out."""

    def __init__(self, settings: Settings, folder: Path, *, threads: int = 1) -> None:
        self.settings = settings
        self.blobs = BlobStore(folder / "blobs")
        self.model = RunModel(settings, threads=threads)
        self.method = settings.compose(self.model.facts)
        self.artifacts = self.model.artifacts(folder / "artifacts", self.blobs, scores=self.method.needs_scores)
        self.submodels = Submodels(self.model.facts, self.model.parameters, self.blobs)

    def start(self) -> RunState:
        """The state before round 1."""
        return self.method.init()

    def assign(
        self,
        state: RunState,
        stamp: tuple[str, int, int],
        engines: Mapping[str, Sequence[str]],
        members: Mapping[str, Present],
        earlier: Mapping[str, Assignment] = MappingProxyType({}),
    ) -> tuple[tuple[Assignment, ...], int]:
        """The assignments of the devices of `engines`, and the most bytes an update of them can have.

        stamp: run id, round and attempt. engines: of each device, best first: its artifact is for the first that can
        be served. members: all that are here, these devices among them. earlier: see `Submodels.assign`.
        Raises EngineError when a device has no engine that can be served.
        """
        memory = self.method.admit(state.memory, members)
        works = self.method.assign(RunState(state.model, memory), stamp[1], members)
        graphs = {device: self.artifacts.for_engines(names)[1].graph_sha for device, names in engines.items()}
        ttl_s = self.settings.rounds.deadline_s * _TTL_DEADLINES
        return self.submodels.assign(state.model.theta, works, graphs, stamp, self.settings.hyper, ttl_s, earlier)

    def close(
        self,
        state: RunState,
        round_index: int,
        members: Mapping[str, Present],
        accepted: Mapping[str, Offer],
        assigned: Mapping[str, Assignment],
    ) -> RoundOutcome:
        """Put the accepted updates together, and evaluate what came of it. Pure but for reading blobs.

        `assigned` has the assignment that each of them answers.
        """
        memory = self.method.admit(state.memory, members)
        closed = self.method.close(
            RunState(state.model, memory), round_index, self.submodels.answers(accepted, assigned)
        )
        return RoundOutcome(closed.state, closed.weights, closed.scores, self.model.evaluate(closed.averaged))
