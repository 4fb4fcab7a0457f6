"""One federation's model from round to round: cut it into assignments, check updates, turn them into the next state.

No MQTT and no clock: the service drives this over a broker, the in-process run of the benchmarks without one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aggregator.artifacts import Artifacts
from aggregator.core import contribution, residuals, topology
from aggregator.core.averaging import Update, aggregate
from aggregator.core.pruning import keep_counts, magnitude_masks, nested_masks
from aggregator.core.rates import contribution_sparsities
from aggregator.evaluation import Evaluator, Score, StatisticsEstimator
from aggregator.settings import Settings
from aggregator.state import RunState
from device_runtime.data import Samples, checked, load_npz, prepare
from device_runtime.store import BlobStore
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.messages import Assignment, Offer
from device_runtime.wire.submodel import decode_supports, encode_kept, encode_supports
from device_runtime.wire.support import Kept, Support, cut
from device_runtime.wire.update import decode_update, update_bytes_max
from export.artifacts.spec import ArtifactSpec
from export.forward.values import batch_statistics, forward_with, parameterised_forward
from export.models.sources import load_model
from export.steps.optimizers import choose_optimizer

_TTL_DEADLINES = 10


@dataclass(frozen=True, slots=True, eq=False)
class RoundOutcome:
    """What aggregating one round gave."""

    state: RunState
    scores: dict[str, float]
    dense: Score | None
    sparse: Score | None


class Federation:
    """The model, its artifact and its evaluator; the state is passed in and out."""

    def __init__(self, settings: Settings, folder: Path, *, threads: int = 1) -> None:
        self.settings = settings
        self.blobs = BlobStore(folder / "blobs")
        m, t = settings.model, settings.training
        self._model = load_model(
            zoo=m.name, torch=m.torch, onnx_file=m.onnx, input_shape=settings.input.shape, class_count=m.classes,
            seed=settings.run.seed,
        )  # fmt: skip
        self.initial = self._model.initial
        self.parameters = self._model.parameters
        self._shapes = {p.name: p.shape for p in self.parameters}
        self._supports: tuple[Mapping[str, np.ndarray], dict[str, Support]] | None = None
        self._cut_supports: dict[str, dict[str, Support]] = {}  # of the round, by the support blob's SHA-256
        self._cut_sparsities: dict[str, float] = {}
        self._roles = {p.name: p.role for p in self.parameters}
        self._prunable = {p.name: p.shape for p in self.parameters if p.prunable}
        if not self._prunable:
            raise UsageError(
                f"model {self.model_name!r} has no prunable weight: it needs a convolution or a fully connected layer."
            )
        optimizer = choose_optimizer(
            t.optimizer,
            momentum=t.momentum if t.optimizer == "sgd" else 0.0,
            nesterov=t.nesterov,
            weight_decay=t.weight_decay,
            clip_norm=t.clip_norm,
            proximal_mu=t.proximal_mu,
        )
        spec = ArtifactSpec(
            name=self.model_name, input=settings.input, class_count=m.classes, loss=m.loss, optimizer=optimizer
        )
        self.artifacts = Artifacts(folder / "artifacts", self.blobs, self._model, spec)
        self._evaluator = self._make_evaluator(threads)
        self._estimator = self._make_estimator(threads)
        # Last, for it writes: a model that cannot be trained is refused before any device waits.
        self.artifacts.for_any()

    @property
    def model_name(self) -> str:
        """What the settings call the model."""
        m = self.settings.model
        return m.torch or m.onnx or m.name

    def _make_evaluator(self, threads: int) -> Evaluator | None:
        path = self.settings.run.held_out
        if not path:
            return None
        arrays = load_npz(Path(path))
        for name in ("x_test", "y_test"):
            if name not in arrays:
                raise UsageError(f"held-out file {path!r} has no array {name!r}; it has: {', '.join(arrays)}.")
        data = checked(arrays["x_test"], arrays["y_test"], path)
        held_out: Samples = prepare(data, self.settings.input, self.settings.model.loss, self.settings.model.classes)
        return Evaluator(parameterised_forward(self._model), held_out, threads=threads)

    def _make_estimator(self, threads: int) -> StatisticsEstimator | None:
        path = self.settings.run.calibration
        if not path or not self.has_statistics:
            return None
        arrays = load_npz(Path(path))
        if "x" not in arrays:
            raise UsageError(f"calibration file {path!r} has no array 'x'; it has: {', '.join(arrays)}.")
        x = arrays["x"]
        samples = prepare(checked(x, np.zeros(len(x), dtype=np.int64), path), self.settings.input, "cross_entropy", 1)
        return StatisticsEstimator(batch_statistics(self._model), samples.x, threads=threads)

    @property
    def parameter_count(self) -> int:
        """How many values the dense model has, statistics included."""
        return sum(int(np.prod(p.shape, dtype=np.int64)) for p in self.parameters)

    @property
    def has_statistics(self) -> bool:
        """Whether the model has running statistics, which are the sparse model's: the dense one's are not known."""
        return self._model.has_statistics

    def start(self) -> RunState:
        """The state before round 1."""
        p = self.settings.pruning
        masks = magnitude_masks(self.initial, keep_counts(self._prunable, self._sparsity_at(1), p.layers))
        return RunState(residuals.start(self.initial, masks, p.residual), contribution.ContributionState())

    def _sparsity_at(self, round_index: int) -> float:
        """The sparsity of the run's mask in a round."""
        return topology.sparsity_at(self.settings.topology_rule, self.settings.pruning.sparsity, round_index)

    def supports(self, state: RunState) -> dict[str, Support]:
        """Where the submodel of this state sits, for every parameter."""
        masks = state.model.masks
        if self._supports is None or self._supports[0] is not masks:  # hashing every mask once a round, not per update
            found = {
                n: Support.from_mask(masks[n]) if n in masks else Support.everything(s) for n, s in self._shapes.items()
            }
            self._supports = (masks, found)
        return self._supports[1]

    def contribution_rates(self, state: RunState, members: Iterable[str]) -> dict[str, float]:
        """The sparsities of rates by contribution; nothing under another policy."""
        rule = self.settings.rates_rule
        if rule.policy != "contribution":
            return {}
        return contribution_sparsities(rule, self.settings.pruning.sparsity, state.contribution.weights, members)

    def assign(
        self,
        state: RunState,
        run_id: str,
        round_index: int,
        attempt: int,
        engines: Mapping[str, Sequence[str]],
        sparsities: Mapping[str, float] = MappingProxyType({}),
        earlier: Mapping[str, Assignment] = MappingProxyType({}),
    ) -> tuple[tuple[Assignment, ...], int]:
        """The round's assignments, their blobs stored, and the most bytes an update of them can have.

        `engines` gives the engines of each device, best first: its artifact is for the first that can be served.
        `sparsities` are of devices that are pruned further than the run; devices of one sparsity share their blobs.
        In the dense rounds they wait: every device has the whole model, by which the mask is chosen afterwards.
        `earlier` are the assignments of the round's attempts before: a device in them gets the same submodel again,
        whatever the rates say by now, so that it begins from the same values (a personal layer's too).
        Raises EngineError when a device has no engine that can be served.
        """
        submodels = self._submodels(state, round_index, attempt, engines, sparsities, earlier)
        assignments = tuple(
            Assignment(
                id=f"{run_id}-{round_index}-{attempt}-{device}",
                device=device,
                model_version=round_index,
                graph_sha=self.artifacts.for_engines(engines[device])[1].graph_sha,
                params_sha=submodels[device][0],
                support_shas=submodels[device][1],
                hyper=self.settings.hyper,
                ttl_s=self.settings.rounds.deadline_s * _TTL_DEADLINES,
            )
            for device in engines
        )
        return assignments, update_bytes_max(self.supports(state))

    def _submodels(
        self, state: RunState, round_index: int, attempt: int, devices: Iterable[str],
        sparsities: Mapping[str, float], earlier: Mapping[str, Assignment],
    ) -> dict[str, tuple[str, tuple[str, ...]]]:  # fmt: skip
        """By device, the names of its parameters' blob and of its supports', as `assign` says of them."""
        of_run = self._sparsity_at(round_index)
        wanted = sparsities if round_index > self.settings.pruning.dense_rounds else {}
        chosen = {device: max(wanted.get(device, of_run), of_run) for device in devices if device not in earlier}
        if attempt == 0:
            self._cut_supports, self._cut_sparsities = {}, {}
        cuts = {sparsity: self._cut(state, sparsity, of_run) for sparsity in dict.fromkeys(chosen.values())}
        again = {device: (a.params_sha, a.support_shas) for device, a in earlier.items()}
        return again | {device: cuts[sparsity] for device, sparsity in chosen.items()}

    def _cut(self, state: RunState, sparsity: float, of_run: float) -> tuple[str, tuple[str, ...]]:
        """The submodel at this sparsity as two stored blobs: names of the parameters and of the supports."""
        supports = self.supports(state)
        if sparsity > of_run:
            theta, layers = state.model.theta, self.settings.pruning.layers
            nested = nested_masks(theta, state.model.masks, sparsity, layers)
            supports = {n: Support.from_mask(nested[n]) if n in nested else s for n, s in supports.items()}
        kept = cut({n: state.model.theta[n] for n in supports}, supports)
        params_sha = self.blobs.put(encode_kept(kept, lambda _: "fp32", lambda n: Draws(0, "unused", n)))
        support_sha = self.blobs.put(encode_supports(supports))
        self._cut_supports[support_sha] = supports
        return params_sha, (support_sha,)

    def assigned_supports(self, assignment: Assignment) -> dict[str, Support]:
        """Where the submodel of an assignment sits, by its own blob, so that a restart changes nothing.

        Raises UsageError when the blob is missing from the run folder.
        """
        sha = assignment.support_shas[0]
        if sha not in self._cut_supports:
            data = self.blobs.get(sha)
            if data is None:
                raise UsageError(f"the masks {sha[:12]} of {assignment.device} are missing from the run folder.")
            self._cut_supports[sha] = decode_supports(data, self._shapes)
        return self._cut_supports[sha]

    def assigned_sparsity(self, assignment: Assignment) -> float:
        """The share of the prunable weights that the submodel of an assignment lacks."""
        sha = assignment.support_shas[0]
        if sha not in self._cut_sparsities:  # counted once for all devices that share it
            supports = self.assigned_supports(assignment)
            kept = sum(supports[name].count for name in self._prunable)
            dense = sum(int(np.prod(shape, dtype=np.int64)) for shape in self._prunable.values())
            self._cut_sparsities[sha] = 1 - kept / dense
        return self._cut_sparsities[sha]

    def check(self, assignment: Assignment, offer: Offer, data: bytes) -> None:
        """Raise RemoteWireError when an update does not fit the submodel assigned, or is not finite.

        It holds every tensor but those that its offer keeps back, and those must be ones that it may lack.
        """
        decode_update(data, offer, assignment, self.assigned_supports(assignment), self.parameters)
        if offer.sample_count < 1:
            raise RemoteWireError("the update was trained on no samples")

    def close(
        self, state: RunState, round_index: int, accepted: Mapping[str, Offer], assigned: Mapping[str, Assignment]
    ) -> RoundOutcome:
        """Aggregate the accepted updates, in order of device name, and choose the next masks.

        `assigned` has the assignment that each of them answers.
        """
        rule = self.settings.contribution_rule
        known = self._with_members(rule, state.contribution, accepted)

        def updates() -> Iterator[Update]:
            for device in sorted(accepted):
                offer = accepted[device]
                yield Update(device, self._stored(offer, assigned[device]), offer.sample_count)

        averaged = aggregate(
            state.model.theta, known.weights, updates, self.settings.averaging_rule, self._roles,
            exclude_self=rule.exclude_self,
        )  # fmt: skip
        model = residuals.commit_step(state.model, averaged.theta, averaged.covered)
        dense, sparse = self._evaluate(model)
        after = contribution.next_weights(rule, known, averaged.scores)
        return RoundOutcome(
            RunState(self._adjust(model, round_index, averaged.covered), after), averaged.scores, dense, sparse
        )

    def _with_members(
        self,
        rule: contribution.ContributionRule,
        known: contribution.ContributionState,
        accepted: Mapping[str, Offer],
    ) -> contribution.ContributionState:
        """The contribution record with every participant of the round in it."""
        if not known.weights:
            return contribution.initial_weights({d: accepted[d].sample_count for d in sorted(accepted)}, rule.weighting)
        for device in sorted(accepted):
            known = contribution.join(rule, known, device, accepted[device].sample_count)
        return known

    def _stored(self, offer: Offer, assignment: Assignment) -> dict[str, Kept]:
        data = self.blobs.get(offer.update_sha)
        if data is None:
            raise UsageError(
                f"the accepted update {offer.update_sha[:12]} of {offer.device} is missing from the run folder."
            )
        return decode_update(data, offer, assignment, self.assigned_supports(assignment), self.parameters)

    def _evaluate(self, model: residuals.ModelState) -> tuple[Score | None, Score | None]:
        """Dense and sparse; a dense model whose running statistics are the sparse one's is not scored."""
        if self._evaluator is None:
            return None, None
        dense: Score | None
        if self._estimator is not None:
            dense = self._evaluator.score(self._estimator.with_statistics(model.theta))
        else:
            dense = None if self.has_statistics else self._evaluator.score(model.theta)
        return dense, self._evaluator.score(residuals.sparse_params(model))

    def _adjust(
        self, model: residuals.ModelState, round_index: int, covered: Mapping[str, np.ndarray]
    ) -> residuals.ModelState:
        """Move the mask, set what was grown, apply the residual policy.

        A mask moves by the size of trained weights; a tensor of which no device sent a value keeps its mask. Only the
        last dense round prunes that too, by its initial values, as a run without dense rounds would have.
        """
        p, rule = self.settings.pruning, self.settings.topology_rule
        seed = self.settings.run.seed
        masks = topology.next_masks(
            rule, model.theta, model.masks, p.sparsity, round_index, lambda n: Draws(seed, "regrow", round_index, n)
        )
        if round_index != p.dense_rounds:
            masks = {n: mask if covered[n].any() else model.masks[n] for n, mask in masks.items()}
        grown = topology.grown_values(rule, round_index, model.theta, model.masks, masks, self.initial)
        return residuals.adopt_masks(model, masks, p.residual, grown)

    def forward_model(self, params: Mapping[str, np.ndarray]) -> bytes:
        """The inference graph with these parameters, as ONNX bytes."""
        return forward_with(self._model, params).to_bytes()
