"""Carrying out one assignment: load, train, move masks where asked, take the difference, serialise; all metered."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.data import LocalData, Samples, batches, prepare
from device_runtime.engines import Engine, Trainer, open_engine
from device_runtime.engines.registry import engine_kind
from device_runtime.mask_adjustment import move
from device_runtime.metering import system
from device_runtime.metering.phases import PhaseTimes
from device_runtime.personal import Personal
from device_runtime.wire.cost import Flops, flops, flops_of_scores
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import EngineError, RemoteWireError, UsageError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, Role, decode_manifest
from device_runtime.wire.measurement import Measurement, Phase, derived, measured, percentile
from device_runtime.wire.messages import Assignment, MaskAdjustment
from device_runtime.wire.submodel import ValueType, decode_kept, decode_supports, encode_kept
from device_runtime.wire.support import Kept, Support
from device_runtime.wire.update import extras_of, mask_extras, movable

Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss
NOTHING_PERSONAL = Personal()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes since the process started, and the spans of the transfers around this assignment."""

    bytes_down: int
    bytes_up: int
    download: Phase
    upload_previous: Phase


@dataclass(frozen=True, slots=True)
class Result:
    """The update as bytes, the kinds of extras in it, what producing it cost, and the personal tensors before and
    after."""

    update: bytes
    extras: tuple[str, ...]
    sample_count: int
    measurement: Measurement
    personal_before: Personal
    personal: Personal


@dataclass(frozen=True, slots=True)
class Loaded:
    """What training begins with: the values received, on their supports, and the personal tensors before it."""

    supports: dict[str, Support]
    received: dict[str, Kept]
    personal: Personal


class Workbench:
    """An opened artifact with the samples prepared for it, kept from round to round.

    A device carries out whole assignments on it; a profile times its parts, which are the same: load, step, serialise.
    """

    def __init__(self, engine: Engine, artifact: Path, samples: Samples, *, threads: int, seed: int) -> None:
        self.engine = engine
        self.threads = threads
        self.samples = samples
        self.manifest: Manifest = decode_manifest((artifact / MANIFEST_FILE).read_bytes())
        self.trainer: Trainer = engine.open(artifact, threads=threads, seed=seed)
        self._kernel_cost = engine_kind(engine.name).kernel_cost

    def carry_out(
        self,
        assignment: Assignment,
        params: bytes,
        supports: bytes,
        traffic: Traffic,
        progress: Progress,
        personal: Personal = NOTHING_PERSONAL,
    ) -> Result:
        """Train one assignment from its two blobs, with the device's own values of its personal tensors.

        Of a personal tensor without own values yet, the received ones are taken over. The update lacks them all, and
        their masks do not move.

        Raises RemoteWireError for malformed blobs and masks that are to move after more epochs than are trained,
        EngineError where the engine refuses, LocalWireError where training diverged.
        """
        times = PhaseTimes()
        _check(assignment)
        with times.timed("load"):
            loaded = self.load(params, supports, personal)
        with times.timed("train"):
            steps = self._train(assignment, progress, loaded.personal.names)
        with times.timed("serialise"):
            update, after = self.serialise(assignment, loaded)
        measurement = self._measure(assignment, loaded.supports, times, steps, traffic)
        return Result(update, extras_of(assignment), len(self.samples), measurement, loaded.personal, after)

    def load(self, params: bytes, supports: bytes, personal: Personal = NOTHING_PERSONAL) -> Loaded:
        """Decode both blobs and give their values, and the personal ones, to the engine; its optimizer begins anew.

        Raises RemoteWireError for malformed blobs, EngineError where the engine refuses.
        """
        known = decode_supports(supports, self.manifest.shapes())
        received = decode_kept(params, known)
        before = personal.completed(received)
        self.trainer.load(before.in_place(received), reset_optimizer=True)
        return Loaded(known, received, before)

    def batches(self, assignment: Assignment, epoch: int) -> Iterator[Samples]:
        """The batches of one epoch, in the order that the assignment's seed draws."""
        hyper = assignment.hyper
        draws = Draws(hyper.seed, "batches", assignment.model_version, assignment.device, epoch)
        return batches(self.samples, hyper.batch_size, draws)

    def step(self, batch: Samples, learning_rate: float) -> float:
        """One training step; gives its loss. Raises EngineError where the engine refuses the batch."""
        return self.trainer.step(batch.x, batch.y, learning_rate).loss

    def serialise(self, assignment: Assignment, loaded: Loaded) -> tuple[bytes, Personal]:
        """The update as bytes, without the personal tensors, and these as they are now.

        Raises LocalWireError where training diverged.
        """
        local = self.trainer.kept()
        after = loaded.personal.trained(local)
        return self._update(assignment, loaded.received, local, after.names), after

    def _train(self, assignment: Assignment, progress: Progress, keeps_back: tuple[str, ...]) -> "_Steps":
        adjust, epoch_count = assignment.adjust, assignment.hyper.epoch_count
        steps = _Steps([], [])
        if adjust is None:
            self._epochs(assignment, range(epoch_count), steps, progress)
        else:
            self._epochs(assignment, range(adjust.after_epochs), steps, progress)
            self._adjust(assignment, adjust, keeps_back)
            self._epochs(assignment, range(adjust.after_epochs, epoch_count), steps, progress)
        return steps

    def _epochs(self, assignment: Assignment, epochs: range, steps: "_Steps", progress: Progress) -> None:
        hyper = assignment.hyper
        total = hyper.epoch_count * -(-len(self.samples) // hyper.batch_size)
        for epoch in epochs:
            for batch in self.batches(assignment, epoch):
                start = time.perf_counter_ns()
                loss = self.step(batch, hyper.learning_rate)
                steps.wall_ns.append(time.perf_counter_ns() - start)
                steps.losses.append(loss)
                progress(len(steps.losses), total, loss)

    def _adjust(self, assignment: Assignment, adjust: MaskAdjustment, keeps_back: tuple[str, ...]) -> None:
        """Move the masks of what the device sends, by the gradient of one batch of its own order."""
        hyper = assignment.hyper
        draws = Draws(hyper.seed, "scores", assignment.model_version, assignment.device)
        batch = next(batches(self.samples, hyper.batch_size, draws))
        scores, kept = self.trainer.scores(batch.x, batch.y), self.trainer.kept()
        names = movable(self.manifest.parameters, keeps_back)
        moves = {n: m for n in names if (m := move(n, kept[n], scores[n], adjust)) is not None}
        # In two turns, so that what goes and comes back at once begins anew too.
        self.trainer.remask({n: m.reduced for n, m in moves.items()})
        self.trainer.remask({n: m.grown for n, m in moves.items()})

    def _update(
        self, assignment: Assignment, received: dict[str, Kept], local: Mapping[str, Kept], keeps_back: tuple[str, ...]
    ) -> bytes:
        """Local minus received, on the support; scales, shifts and statistics of normalisations travel as fp32."""
        delta = {n: _difference(local[n], kept) for n, kept in received.items() if n not in keeps_back}
        roles = {p.name: p.role for p in self.manifest.parameters}
        hyper = assignment.hyper
        moved = movable(self.manifest.parameters, keeps_back) if assignment.adjust is not None else ()
        return encode_kept(
            delta,
            lambda name: _value_type(roles[name], hyper.update_dtype),
            lambda name: Draws(hyper.seed, "rounding", assignment.model_version, assignment.device, name),
            mask_extras({name: local[name].support for name in moved}),
        )

    def _cost(self, assignment: Assignment, supports: dict[str, Support], step_count: int) -> Flops:
        """What the training did. A moved mask keeps as many elements as before, so it costs what it did."""
        hyper, costs, kernel = assignment.hyper, self.manifest.costs, self._kernel_cost
        kept_counts = {n: supports[n].count for n in self.manifest.prunable}
        cost = flops(costs, kept_counts, kernel, samples=hyper.epoch_count * len(self.samples), steps=step_count)
        if assignment.adjust is None:
            return cost
        return cost + flops_of_scores(costs, kept_counts, kernel, samples=min(hyper.batch_size, len(self.samples)))

    def _measure(
        self, assignment: Assignment, supports: dict[str, Support], times: PhaseTimes, steps: "_Steps", traffic: Traffic
    ) -> Measurement:
        cost = self._cost(assignment, supports, len(steps.losses))
        train = times.get("train")
        seconds = (train.wall_ns.value or 0) / 1e9
        return Measurement(
            engine=self.engine.name,
            engine_version=self.engine.version,
            threads=self.threads,
            step_count=len(steps.losses),
            sample_count=assignment.hyper.epoch_count * len(self.samples),
            loss_first=measured(steps.losses[0] if steps.losses else None),
            loss_last=measured(steps.losses[-1] if steps.losses else None),
            download=traffic.download,
            load=times.get("load"),
            train=train,
            serialise=times.get("serialise"),
            upload_previous=traffic.upload_previous,
            step_ns_p50=measured(percentile(steps.wall_ns, 0.50)),
            step_ns_p90=measured(percentile(steps.wall_ns, 0.90)),
            step_ns_p99=measured(percentile(steps.wall_ns, 0.99)),
            rss_bytes=measured(system.rss_bytes()),
            rss_peak_bytes=measured(system.rss_peak_bytes()),
            pss_bytes=measured(system.pss_bytes()),
            bytes_down=measured(traffic.bytes_down),
            bytes_up=measured(traffic.bytes_up),
            flops_dense=derived(cost.dense),
            flops_ideal=derived(cost.ideal),
            flops_executed=derived(cost.executed),
            gflops_per_s=derived(cost.executed / seconds / 1e9 if steps.losses and seconds else None),
            temperature_c=measured(system.temperature_c()),
            frequency_hz=measured(system.frequency_hz()),
        )


def open_workbench(artifact: Path, data: LocalData, *, threads: int, seed: int) -> Workbench:
    """A workbench on the engine that the artifact is for, with local data.

    Raises UsageError for data that does not fit the model, EngineError where the engine cannot open the artifact.
    """
    manifest = decode_manifest((artifact / MANIFEST_FILE).read_bytes())
    samples = prepare(data, manifest.input, manifest.loss, manifest.class_count)
    return Workbench(open_engine(manifest.engine), artifact, samples, threads=threads, seed=seed)


@dataclass(frozen=True, slots=True)
class _Steps:
    wall_ns: list[int]
    losses: list[float]


def _check(assignment: Assignment) -> None:
    adjust, trained = assignment.adjust, assignment.hyper.epoch_count
    if adjust is not None and adjust.after_epochs > trained:
        raise RemoteWireError(f"masks are to move after {adjust.after_epochs} epochs, and {trained} are trained")


def _difference(local: Kept, received: Kept) -> Kept:
    """Local minus received, on the local support; what was not received counts as 0."""
    if local.support.sha == received.support.sha:
        return Kept(local.values - received.values, received.support)
    return Kept(local.values - local.support.gather(received.dense()), local.support)


def _value_type(role: Role, update_dtype: ValueType) -> ValueType:
    """How a parameter of `role` travels in an update."""
    return update_dtype if role in ("weight", "bias") else "fp32"


REFUSALS = (EngineError, RemoteWireError, UsageError)
