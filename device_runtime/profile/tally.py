"""From what was read to the record of a case: percentiles, rates, energy per step and the verdict, all pure."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from device_runtime.profile.instruments import energy, per_step
from device_runtime.profile.methodology import distribution, spread
from device_runtime.profile.phase_samples import OFFLINE
from device_runtime.profile.record import Case, Cold, Memory, Payload, Plan, Repeat, Roof, StepFlops, Verdict, WarmUp
from device_runtime.profile.values import PhaseSamples, Value, absent, derived
from device_runtime.profile.verdict import judge
from device_runtime.wire.cost import Flops, KernelCost, flops
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.support import Kept


class CaseJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What to run: an artifact folder, and under which conditions. `is_fresh` says that the process is its own."""

    artifact: str
    sparsity: float
    threads: int
    batch: int
    seed: int
    plan: Plan
    roof: Roof
    cores: int
    emulated: str = ""
    fit: tuple[float, float] | None = None
    has_soak: bool = False
    is_fresh: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """What a case read. `idle_watts` before and after the repeats; `sensor` names it, or says why there is none."""

    engine_version: str
    cold: Cold
    warm_up: WarmUp
    load: PhaseSamples
    serialise: PhaseSamples
    repeats: tuple[Repeat, ...]
    idle_watts: tuple[float | None, float | None]
    sensor: str
    memory: Memory
    payload: Payload
    is_finite: bool


def tally(
    job: CaseJob, manifest: Manifest, artifact_sha: str, sent: Mapping[str, Kept], kernel_cost: KernelCost,
    found: Findings,
) -> Case:  # fmt: skip
    """The case but for its layers and its soak, which are runs of their own."""
    kept = {name: sent[name].support.count for name in manifest.prunable}
    samples = [ns for r in found.repeats for ns in r.step_ns]
    times = distribution(samples)
    between = spread([distribution(r.step_ns).p50 for r in found.repeats])
    per_second = len(samples) * 1e9 / sum(samples)
    cost = flops(manifest.costs, kept, kernel_cost, samples=job.batch, steps=1)
    rate, peak = cost.executed / times.p50, job.roof.compute.value  # FLOP per ns is GFLOP per s
    return Case(
        engine=manifest.engine,
        engine_version=found.engine_version,
        artifact_sha=artifact_sha,
        sparsity=job.sparsity,
        kept_count=sum(kept.values()),
        prunable_count=sum(math.prod(sent[name].support.shape) for name in manifest.prunable),
        threads=job.threads,
        batch=job.batch,
        cold=found.cold,
        warm_up=found.warm_up,
        download=OFFLINE,
        load=found.load,
        serialise=found.serialise,
        upload=OFFLINE,
        step=times,
        repeats=found.repeats,
        spread=between,
        steps_per_second=derived(per_second, "1/s", "over all timed steps"),
        samples_per_second=derived(per_second * job.batch, "1/s", "over all timed steps"),
        flops=_step_flops(cost),
        rate=derived(rate, "GFLOP/s", "executed FLOPs over the step's p50"),
        share_of_peak=derived(rate / peak if peak else None, "1", reason="the peak is not known"),
        memory=found.memory,
        energy=energy(found.repeats, found.sensor, *found.idle_watts),
        counters_per_step=per_step(found.repeats),
        payload=found.payload,
        layers=None,
        layers_note="",
        soak=None,
        verdict=_verdict(job, found, between),
    )


def _step_flops(cost: Flops) -> StepFlops:
    """The three counts of a step."""
    return StepFlops(
        dense=derived(cost.dense, "FLOP/step"),
        ideal=derived(cost.ideal, "FLOP/step"),
        executed=derived(cost.executed, "FLOP/step"),
    )


def _verdict(job: CaseJob, found: Findings, between: Value) -> Verdict:
    """Whether the numbers may stand for the board."""
    return judge(
        job.emulated,
        found.repeats,
        between,
        threads=job.threads,
        cores=job.cores,
        is_stable=found.warm_up.is_stable,
        are_finite=found.is_finite,
    )


def payload(params: int, supports: int, update: int | None) -> Payload:
    """The sizes of a round's blobs."""
    ours = "payload of a blob, without MQTT, TLS and TCP"
    return Payload(
        params=derived(params, "B", ours),
        supports=derived(supports, "B", ours),
        update=derived(update, "B", ours, reason="the training diverged, so there is no update"),
        socket=absent("B", "an offline profile opens no socket"),
    )


def typical(phase: PhaseSamples) -> float | None:
    """The median wall time of a phase in ns, None where it is absent."""
    return statistics.median(phase.wall_ns) if phase.wall_ns else None
