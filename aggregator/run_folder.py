"""The run folder, the hand-over between commands: settings, result, and the model as plain files.

RUN/settings.json  result.json  report.html  ledger.sqlite  committed.json  blobs/  artifacts/<engine>/
RUN/models/<round>/forward.onnx  params.safetensors  supports  manifest.json
"""

import platform
import secrets
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import msgspec
import safetensors.numpy

from aggregator.core.dense_model import sparse_params
from aggregator.core.masks import supports_of
from aggregator.core.method import RunState
from aggregator.federation import Federation, RoundOutcome
from aggregator.ledger import Ledger
from aggregator.results import DeviceRound, DeviceSummary, Final, RoundResult, RunResult, Totals, uploaded_by_nobody
from aggregator.settings import Settings, decode_settings
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import encode_manifest
from device_runtime.wire.measurement import Reading
from device_runtime.wire.messages import Assignment, Offer
from device_runtime.wire.submodel import encode_supports
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.version import VERSION

# What may differ when a run is resumed: where it lies and how it is reached, and how long it goes on and waits.
_MAY_CHANGE = ("run.folder", "run.held_out", "run.calibration", "run.leave_after_s", "link", "rounds")
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-training-cpu", "paho-mqtt", "msgspec")


def new_run_id(ledger: Ledger) -> str:
    """The id of the run, drawn once: it keeps a device's spool of another run out of this one."""
    run_id = ledger.setting("run_id")
    if run_id is None:
        run_id = secrets.token_hex(4)
        ledger.set_setting("run_id", run_id)
    return run_id


def remember_settings(ledger: Ledger, folder: Path, settings: Settings) -> None:
    """Record the settings of a new run; refuse to resume a run, once a round of it was opened, with others.

    Raises UsageError naming the first setting that differs.
    """
    now = _flat(msgspec.to_builtins(settings))
    stored = ledger.setting("settings")
    if stored is not None and ledger.begun():
        before = _flat(msgspec.to_builtins(decode_settings(stored)))
        for key in sorted(now):
            if not key.startswith(_MAY_CHANGE) and before.get(key) != now[key]:
                raise UsageError(
                    f"the run in {str(folder)!r} was begun with {key} = {before.get(key)!r}, not {now[key]!r}: "
                    "set it back to resume, or choose another folder."
                )
    ledger.set_setting("settings", msgspec.json.encode(settings).decode())
    write_atomic(folder / "settings.json", msgspec.json.format(msgspec.json.encode(settings), indent=1))


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def device_rounds(
    federation: Federation,
    assigned: Mapping[str, Assignment],
    accepted: Mapping[str, Offer],
    outcome: RoundOutcome,
) -> list[DeviceRound]:
    """One record per device of a round, from its offer's measurement and its assignment's masks."""
    return [
        _device_round(
            offer,
            outcome.weights[device],
            outcome.scores[device],
            sparsity=federation.submodels.sparsity_of(assigned[device]),
        )
        for device, offer in sorted(accepted.items())
    ]


def _device_round(offer: Offer, weight: float, score: float, *, sparsity: float) -> DeviceRound:
    m = offer.measurement
    return DeviceRound(
        name=offer.device,
        weight=weight,
        contribution=score,
        sample_count=offer.sample_count,
        sparsity=sparsity,
        engine=m.engine,
        step_ms_p50=_scaled(m.step_ns_p50, 1e-6),
        step_ms_p90=_scaled(m.step_ns_p90, 1e-6),
        step_ms_p99=_scaled(m.step_ns_p99, 1e-6),
        train_s=_scaled(m.train.wall_ns, 1e-9),
        download_s=_scaled(m.download.wall_ns, 1e-9),
        serialise_s=_scaled(m.serialise.wall_ns, 1e-9),
        rss_mb=_scaled(m.rss_bytes, 1e-6),
        rss_mb_peak=_scaled(m.rss_peak_bytes, 1e-6),
        pss_mb=_scaled(m.pss_bytes, 1e-6),
        flops_dense=_whole(m.flops_dense),
        flops_ideal=_whole(m.flops_ideal),
        flops_executed=_whole(m.flops_executed),
        gflops_per_s=_scaled(m.gflops_per_s, 1.0),
        temperature_c=_scaled(m.temperature_c, 1.0),
        frequency_hz=_scaled(m.frequency_hz, 1.0),
        loss_first=_scaled(m.loss_first, 1.0),
        loss_last=_scaled(m.loss_last, 1.0),
        kept_back=list(offer.kept_back),
    )


def _whole(reading: Reading) -> int | None:
    return None if reading.value is None else int(reading.value)


def _scaled(reading: Reading, factor: float) -> float | None:
    return None if reading.value is None else reading.value * factor


def save_model(folder: Path, round_index: int, federation: Federation, outcome: RoundOutcome) -> None:
    """The model after a round as plain files: dense parameters, supports, the sparse model as an inference graph."""
    target = folder / "models" / str(round_index)
    model = outcome.state.model
    write_atomic(target / "params.safetensors", safetensors.numpy.save(dict(model.theta)))
    write_atomic(target / "supports", encode_supports(supports_of(federation.model.facts.shapes, model.masks)))
    write_atomic(target / "forward.onnx", federation.model.forward_bytes(sparse_params(model)))
    write_atomic(target / "manifest.json", encode_manifest(federation.artifacts.manifest))


def run_result(ledger: Ledger, federation: Federation, state: RunState, settings: Settings) -> RunResult:
    """The result of a run from its ledger."""
    rounds = ledger.results(RoundResult)
    last = rounds[-1]
    traffic = ledger.traffic()
    rounds = [_with_traffic(r, traffic.get(r.round_index, {})) for r in rounds]
    updates = ledger.update_counts().get("accepted", 0)
    every = [d for r in rounds for d in r.devices]
    return RunResult(
        rounds=rounds,
        final=Final(
            accuracy_dense=last.accuracy_dense,
            accuracy_sparse=last.accuracy_sparse,
            params_sha=sha256_hex(safetensors.numpy.save(dict(state.model.theta))),
            uploaded_by_nobody=uploaded_by_nobody(d.kept_back for d in every),
        ),
        devices=_summaries(rounds),
        totals=Totals(
            bytes_up=sum(r.bytes_up for r in rounds),
            bytes_down=sum(r.bytes_down for r in rounds),
            bytes_up_dense_fp32=4 * federation.model.parameter_count * updates,
            flops_dense=sum(d.flops_dense or 0 for d in every),
            flops_ideal=sum(d.flops_ideal or 0 for d in every),
            flops_executed=sum(d.flops_executed or 0 for d in every),
            wall_s=sum(r.wall_s for r in rounds),
            updates_accepted=updates,
        ),
        settings=msgspec.to_builtins(settings),
        versions=versions(),
    )


def _with_traffic(result: RoundResult, traffic: Mapping[str, tuple[int, int]]) -> RoundResult:
    """Bytes that arrived after the round was committed, such as farewells, belong to it too."""
    up, down = sum(t[0] for t in traffic.values()), sum(t[1] for t in traffic.values())
    return msgspec.structs.replace(result, bytes_up=up, bytes_down=down)


def _summaries(rounds: list[RoundResult]) -> list[DeviceSummary]:
    """Each device over the run: its last weight and ψ, medians of its measurements, sums of its FLOPs."""
    history: dict[str, list[DeviceRound]] = defaultdict(list)
    for result in rounds:
        for device in result.devices:
            history[device.name].append(device)
    return [
        DeviceSummary(
            name=name,
            weight=seen[-1].weight,
            contribution=seen[-1].contribution,
            sparsity=seen[-1].sparsity,
            noisy=None,
            samples=seen[-1].sample_count,
            step_ms_p50=_median([d.step_ms_p50 for d in seen]),
            rss_mb_peak=max((d.rss_mb_peak for d in seen if d.rss_mb_peak is not None), default=None),
            flops_dense=sum(d.flops_dense or 0 for d in seen),
            flops_ideal=sum(d.flops_ideal or 0 for d in seen),
            flops_executed=sum(d.flops_executed or 0 for d in seen),
            engine=seen[-1].engine,
            rounds=len(seen),
            kept_back=seen[-1].kept_back,
        )
        for name, seen in sorted(history.items())
    ]


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def write_result(folder: Path, result: RunResult) -> None:
    """Write `result.json`."""
    write_atomic(folder / "result.json", msgspec.json.format(msgspec.json.encode(result), indent=1))


def read_result(folder: Path) -> RunResult:
    """Read `result.json`. Raises UsageError when the folder holds no finished run."""
    path = folder / "result.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunResult)
    except OSError as error:
        raise UsageError(f"there is no result in {str(folder)!r} ({error.strerror}): is the run finished?") from error
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise UsageError(f"{str(path)!r} is malformed: {error}.") from error


def versions() -> dict[str, str]:
    """What ran: our version, Python, the platform and the libraries that decide numbers."""
    found = {"espalier-fl": VERSION, "python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
