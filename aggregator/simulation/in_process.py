"""A federation in one process, one device after the other: for benchmarks over many seeds, and as a test's oracle.

It drives the same `Federation` and the same `Workbench` as aggregator and device do over a broker, so it ends with the
same bits (tests/e2e/test_demo.py compares them).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aggregator.core.method import Present, RunState
from aggregator.federation import Federation, RoundOutcome
from aggregator.settings import Settings
from device_runtime.data import LocalData
from device_runtime.engines import offered_engines
from device_runtime.personal import Choice, Personal, personal_names
from device_runtime.training import Traffic, Workbench, open_workbench
from device_runtime.wire.errors import UsageError
from device_runtime.wire.measurement import NO_PHASE
from device_runtime.wire.messages import Assignment, Offer
from device_runtime.wire.support import FloatArray, sha256_hex

_NO_TRAFFIC = Traffic(0, 0, NO_PHASE, NO_PHASE)


@dataclass(frozen=True, slots=True, eq=False)
class InProcessRun:
    """The state after the last round, every round's outcome, and each device's personal tensors (dense, by name)."""

    state: RunState
    outcomes: list[RoundOutcome]
    update_bytes: int
    personal: dict[str, Mapping[str, FloatArray]]


def run_in_process(
    settings: Settings,
    devices: Mapping[str, LocalData],
    folder: Path,
    engine: str = "auto",
    personal: Mapping[str, Choice] = MappingProxyType({}),
) -> InProcessRun:
    """Run every round with every device. `folder` takes the blobs and the artifact.

    personal: by device, what it keeps for itself, as in its settings.
    Raises UsageError for rates by capability, which rest on the times of devices on a broker.
    """
    federation = Federation(settings, folder)
    if federation.method.needs_times:
        raise UsageError("rates by the times of devices need devices on a broker: choose another [rates] kind.")
    chosen, _ = federation.artifacts.for_engines(offered_engines(engine))
    artifact = federation.artifacts.folder(chosen)
    benches = {n: open_workbench(artifact, d, threads=1, seed=settings.run.seed) for n, d in devices.items()}
    own = {n: Personal(personal_names(personal.get(n, ()), bench.manifest)) for n, bench in benches.items()}
    members = {name: Present(len(devices[name])) for name in sorted(devices)}
    state, outcomes, update_bytes = federation.start(), [], 0
    for round_index in range(1, settings.rounds.count + 1):
        engines = {n: [chosen] for n in sorted(devices)}
        assignments, _ = federation.assign(state, ("in-process", round_index, 0), engines, members)
        offers = {a.device: _train(benches[a.device], federation, a, own) for a in assignments}
        update_bytes += sum(o.size_bytes for o in offers.values())
        outcome = federation.close(state, round_index, members, offers, {a.device: a for a in assignments})
        state = outcome.state
        outcomes.append(outcome)
        federation.blobs.keep_only(federation.artifacts.shas)
    return InProcessRun(state, outcomes, update_bytes, {n: p.values for n, p in own.items()})


def _train(bench: Workbench, federation: Federation, assignment: Assignment, own: dict[str, Personal]) -> Offer:
    """The offer of a device's trained update, which is stored; its entry of `own` advances."""
    device = assignment.device
    params = federation.blobs.get(assignment.params_sha)
    supports = federation.blobs.get(assignment.support_shas[0])
    assert params is not None, "assign stores what it names"
    assert supports is not None, "assign stores what it names"
    result = bench.carry_out(assignment, params, supports, _NO_TRAFFIC, lambda *_: None, own[device])
    own[device] = result.personal
    federation.blobs.put(result.update)
    return Offer(
        assignment_id=assignment.id,
        device=device,
        update_sha=sha256_hex(result.update),
        size_bytes=len(result.update),
        sample_count=result.sample_count,
        measurement=result.measurement,
        kept_back=result.personal.names,
        extras=result.extras,
    )
