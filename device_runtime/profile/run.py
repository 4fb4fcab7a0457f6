"""A whole profile run: the machine, its roofline, then every artifact at every sparsity, one process each."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.metering.system import usable_cores
from device_runtime.profile import subject
from device_runtime.profile.case import Progress
from device_runtime.profile.preflight import machine, preflight
from device_runtime.profile.record import Case, Machine, Plan, Profile, Roof, Subject
from device_runtime.profile.tally import CaseJob
from device_runtime.profile.values import Value, absent
from device_runtime.profile.worker import Job, RoofJob, in_own_process
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, decode_manifest
from firmware_profiles.detect import Detection
from firmware_profiles.measured import roofs
from firmware_profiles.schema import Board, Number

_ROOF_SECONDS, _ROOF_SECONDS_QUICK = 4.0, 1.5
Carry = Callable[[Job, Progress], Case | Roof]


@dataclass(frozen=True, slots=True)
class Request:
    """What to profile: artifact folders, one per engine, at every sparsity."""

    artifacts: Sequence[Path]
    sparsities: Sequence[float]
    threads: int
    batch: int
    seed: int
    plan: Plan


def run_profile(request: Request, progress: Progress, carry: Carry = in_own_process) -> Profile:
    """Run it; `progress` hears what is being done, and the share of the whole that is done.

    Raises UsageError for a sparsity out of range, EngineError where no case can be run; one that cannot stands among
    the profile's failures.
    """
    plan, threads = request.plan, request.threads or usable_cores()
    manifests = [decode_manifest((folder / MANIFEST_FILE).read_bytes()) for folder in request.artifacts]
    for sparsity in request.sparsities:
        subject.supports(manifests[0], sparsity, request.seed)  # says what is wrong before minutes are spent
    record, detection = machine()
    before = preflight(record, plan, threads)
    job_count = 1 + len(request.artifacts) * len(request.sparsities)
    seconds = _ROOF_SECONDS_QUICK if plan.is_quick else _ROOF_SECONDS
    roof = _roof(carry, RoofJob(threads=threads, seconds=seconds), detection, _part(progress, "", 0, job_count))
    cases: list[Case] = []
    failures: list[str] = []
    for folder, manifest in zip(request.artifacts, manifests, strict=True):
        for sparsity in request.sparsities:
            job = _job(request, folder, sparsity, threads, roof, record, detection, has_soak=not cases)
            name = f"{manifest.engine} at sparsity {sparsity:g}: "
            try:
                case = carry(job, _part(progress, name, 1 + len(cases) + len(failures), job_count))
            except EngineError as error:  # the other cases still count
                failures.append(f"{name}{error}")
                continue
            assert isinstance(case, Case), "a case's job gives a case"
            cases.append(case)
    if not cases:
        raise EngineError(failures[0])
    return Profile(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=record,
        preflight=before,
        plan=plan,
        subject=_subject(manifests[0], request.seed),
        roof=roof,
        cases=tuple(cases),
        failures=tuple(failures),
    )


def _job(
    request: Request, folder: Path, sparsity: float, threads: int, roof: Roof, record: Machine, found: Detection,
    *, has_soak: bool,
) -> CaseJob:  # fmt: skip
    sensor = found.board.power_sensor if found.board else None
    fit = (
        (sensor.fit_slope.value, sensor.fit_offset.value) if sensor and sensor.fit_slope and sensor.fit_offset else None
    )
    return CaseJob(
        artifact=str(folder.resolve()),
        sparsity=sparsity,
        threads=threads,
        batch=request.batch,
        seed=request.seed,
        plan=request.plan,
        roof=roof,
        cores=record.cores,
        emulated=record.emulated,
        fit=fit,
        has_soak=has_soak and request.plan.soak_minutes > 0,
    )


def _roof(carry: Carry, job: RoofJob, detection: Detection, progress: Progress) -> Roof:
    """Measured here; where that fails, the board file's numbers, labelled so."""
    try:
        found = carry(job, progress)
    except EngineError as error:
        return datasheet_roof(detection.board, job.threads, str(error))
    assert isinstance(found, Roof), "a roof's job gives a roof"
    return found


def datasheet_roof(board: Board | None, threads: int, reason: str) -> Roof:
    """The limits that the board's file gives for one thread or for all cores, absent where it gives none."""
    known = roofs(board) if board else None
    compute = (known.fp32_core if threads == 1 else known.fp32_all) if known else None
    memory = (known.memory_core if threads == 1 else known.memory_all) if known else None
    return Roof(threads=threads, compute=_number(compute, "GFLOP/s", reason), bandwidth=_number(memory, "GB/s", reason))


def _number(number: Number | None, unit: str, reason: str) -> Value:
    if number is None:
        return absent(unit, f"not measured ({reason}), and no board file gives it")
    note = f"{number.kind} by {number.source}, {number.date}; not measured here: {reason}"
    return Value(value=number.value, unit=unit, source="datasheet", note=note)


def _subject(manifest: Manifest, seed: int) -> Subject:
    return Subject(
        model=manifest.model,
        input_shape=manifest.input.shape,
        class_count=manifest.class_count,
        optimizer=manifest.optimizer.name,
        seed=seed,
        data=subject.DATA_WORDS,
        masks=subject.MASK_WORDS,
    )


def _part(progress: Progress, name: str, job_index: int, job_count: int) -> Progress:
    """Progress of one job as progress of the whole; within a case the repeats are most of the time."""

    def hear(doing: str, share: float) -> None:
        progress(name + doing, (job_index + _within(doing, share)) / job_count)

    return hear


def _within(doing: str, share: float) -> float:
    """The share of its case that is done, so that repeats take four fifths of the bar."""
    words = doing.split()
    if words[:1] == ["repeat"]:
        index, count = int(words[1]), int(words[3])
        return 0.1 + 0.8 * (index - 1 + share) / count
    if words[:1] in (["layers"], ["soak,"]):
        return 0.9 + 0.1 * share
    return 0.1 * share if doing == "warm-up" else share if doing == "roofline" else 0.0
