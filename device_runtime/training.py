"""Carrying out one assignment: load, train, take the difference, serialise; every phase metered."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.data import LocalData, Samples, batches, prepare
from device_runtime.engines import Engine, Trainer
from device_runtime.engines.registry import engine_kind
from device_runtime.metering import system
from device_runtime.metering.phases import PhaseTimes
from device_runtime.personal import Personal
from device_runtime.wire.cost import flops
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import EngineError, RemoteWireError, UsageError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, Role, decode_manifest
from device_runtime.wire.measurement import Measurement, Phase, derived, measured, percentile
from device_runtime.wire.messages import Assignment, Hyper
from device_runtime.wire.submodel import ValueType, decode_kept, decode_supports, encode_kept
from device_runtime.wire.support import Kept, Support

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
    """The update as bytes, what producing it cost, and the personal tensors before and after."""

    update: bytes
    sample_count: int
    measurement: Measurement
    personal_before: Personal
    personal: Personal


class Workbench:
    """An opened artifact with the local data prepared for it, kept from round to round."""

    def __init__(self, engine: Engine, artifact: Path, data: LocalData, *, threads: int, seed: int) -> None:
        self.engine = engine
        self.threads = threads
        self.manifest: Manifest = decode_manifest((artifact / MANIFEST_FILE).read_bytes())
        self.samples: Samples = prepare(data, self.manifest.input, self.manifest.loss, self.manifest.class_count)
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

        Of a personal tensor without own values yet, the received ones are taken over. The update lacks them all.

        Raises RemoteWireError for malformed blobs, EngineError where the engine refuses, LocalWireError where training
        diverged.
        """
        times = PhaseTimes()
        hyper = assignment.hyper
        with times.timed("load"):
            known = decode_supports(supports, self.manifest.shapes())
            received = decode_kept(params, known)
            before = personal.completed(received)
            self.trainer.load(before.in_place(received), reset_optimizer=True)
        with times.timed("train"):
            steps = self._train(assignment, progress)
        with times.timed("serialise"):
            local = self.trainer.kept()
            after = before.trained(local)
            update = self._update(assignment, {n: k for n, k in received.items() if n not in after.names}, local)
        measurement = self._measure(hyper, known, times, steps, traffic)
        return Result(update, len(self.samples), measurement, before, after)

    def _train(self, assignment: Assignment, progress: Progress) -> "_Steps":
        hyper = assignment.hyper
        total = hyper.epoch_count * -(-len(self.samples) // hyper.batch_size)
        steps = _Steps([], [])
        for epoch in range(hyper.epoch_count):
            draws = Draws(hyper.seed, "batches", assignment.model_version, assignment.device, epoch)
            for batch in batches(self.samples, hyper.batch_size, draws):
                start = time.perf_counter_ns()
                stats = self.trainer.step(batch.x, batch.y, hyper.learning_rate)
                steps.wall_ns.append(time.perf_counter_ns() - start)
                steps.losses.append(stats.loss)
                progress(len(steps.losses), total, stats.loss)
        return steps

    def _update(self, assignment: Assignment, received: dict[str, Kept], local: Mapping[str, Kept]) -> bytes:
        """Local minus received, on the support; scales, shifts and statistics of normalisations travel as fp32."""
        delta = {n: Kept(local[n].values - kept.values, kept.support) for n, kept in received.items()}
        roles = {p.name: p.role for p in self.manifest.parameters}
        hyper = assignment.hyper
        return encode_kept(
            delta,
            lambda name: value_type(roles[name], hyper.update_dtype),
            lambda name: Draws(hyper.seed, "rounding", assignment.model_version, assignment.device, name),
        )

    def _measure(
        self, hyper: Hyper, supports: dict[str, Support], times: PhaseTimes, steps: "_Steps", traffic: Traffic
    ) -> Measurement:
        seen = hyper.epoch_count * len(self.samples)
        kept_counts = {n: supports[n].count for n in self.manifest.prunable}
        cost = flops(self.manifest.costs, kept_counts, self._kernel_cost, samples=seen, steps=len(steps.losses))
        train = times.get("train")
        seconds = (train.wall_ns.value or 0) / 1e9
        return Measurement(
            engine=self.engine.name,
            engine_version=self.engine.version,
            threads=self.threads,
            step_count=len(steps.losses),
            sample_count=seen,
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


@dataclass(frozen=True, slots=True)
class _Steps:
    wall_ns: list[int]
    losses: list[float]


def value_type(role: Role, update_dtype: ValueType) -> ValueType:
    """How a parameter of `role` travels in an update."""
    return update_dtype if role in ("weight", "bias") else "fp32"


REFUSALS = (EngineError, RemoteWireError, UsageError)
