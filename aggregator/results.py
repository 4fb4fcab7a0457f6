"""The records a run writes: one per round and device, and the result of the whole."""

from collections.abc import Iterable, Sequence

import msgspec

UPLOADED_BY_NOBODY = (
    "every device keeps that for itself, so the model here has the initial values of it, and its accuracy on the "
    "held-out set says little of what the devices reach"
)


class DeviceRound(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one round. `weight` is r after the round, `contribution` its ψ; an absent measurement is None.

    kept_back: the parameters that its update lacked, because the device keeps them for itself.
    """

    name: str
    weight: float
    contribution: float
    sample_count: int
    sparsity: float
    engine: str
    step_ms_p50: float | None
    step_ms_p90: float | None
    step_ms_p99: float | None
    train_s: float | None
    download_s: float | None
    serialise_s: float | None
    rss_mb: float | None
    rss_mb_peak: float | None
    pss_mb: float | None
    flops_dense: int | None
    flops_ideal: int | None
    flops_executed: int | None
    gflops_per_s: float | None
    temperature_c: float | None
    frequency_hz: float | None
    loss_first: float | None
    loss_last: float | None
    kept_back: list[str] = []


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """One committed round."""

    round_index: int
    accuracy_dense: float | None
    accuracy_sparse: float | None
    loss_sparse: float | None
    bytes_up: int
    bytes_down: int
    wall_s: float
    devices: list[DeviceRound]


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """The model at the end. uploaded_by_nobody: parameters that no update of the run held, so they are the initial."""

    accuracy_dense: float | None
    accuracy_sparse: float | None
    params_sha: str
    uploaded_by_nobody: list[str] = []


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One device over the whole run; `noisy` is known only where the demo made the noise. kept_back: of its last
    update."""

    name: str
    weight: float
    contribution: float
    sparsity: float
    noisy: bool | None
    samples: int
    step_ms_p50: float | None
    rss_mb_peak: float | None
    flops_dense: int
    flops_ideal: int
    flops_executed: int
    engine: str
    rounds: int
    kept_back: list[str] = []


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the run. `bytes_up_dense_fp32` is 4 bytes x parameters x accepted updates."""

    bytes_up: int
    bytes_down: int
    bytes_up_dense_fp32: int
    flops_dense: int
    flops_ideal: int
    flops_executed: int
    wall_s: float
    updates_accepted: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` holds."""

    rounds: list[RoundResult]
    final: Final
    devices: list[DeviceSummary]
    totals: Totals
    settings: dict[str, object]
    versions: dict[str, str]


def uploaded_by_nobody(updates: Iterable[Sequence[str]]) -> list[str]:
    """The parameters that every update keeps back, sorted; `updates` gives what each one does."""
    sets = [frozenset(kept_back) for kept_back in updates]
    return sorted(frozenset.intersection(*sets)) if sets else []
