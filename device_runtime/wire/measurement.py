"""What a device measured of one round, each value labelled measured, derived or absent."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

Source = Literal["measured", "derived", "absent"]


class Reading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One value and where it comes from; an absent value is None, never zero, and no value is NaN or infinite."""

    value: float | int | None
    source: Source

    def __post_init__(self) -> None:
        if (self.value is None) != (self.source == "absent"):
            raise ValueError("a reading has a value exactly when it is not absent")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("a reading is a finite number")


ABSENT = Reading(None, "absent")


def measured(value: float | int | None) -> Reading:
    """A value read from the system, absent where the system gave None or no number that travels."""
    return Reading(value, "measured") if _travels(value) else ABSENT


def derived(value: float | int | None) -> Reading:
    """A value computed from others, absent where one of them was or the result is no number that travels."""
    return Reading(value, "derived") if _travels(value) else ABSENT


def _travels(value: float | int | None) -> bool:
    """Finite, and within the integers that a message holds: FLOPs follow from a cost table that somebody sent."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is not None and math.isfinite(value)


class Phase(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Wall and CPU time (all threads of the process) of one phase, in nanoseconds."""

    wall_ns: Reading
    cpu_ns: Reading


NO_PHASE = Phase(ABSENT, ABSENT)


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round of one device.

    Phases: download (blobs asked for until all were here), load (artifact and parameters into the engine), train (all
    steps), serialise (update into bytes). An update's own upload ends after its measurement left, so `upload_previous`
    is that of the update before (offer to receipt). Memory is that of the device process. FLOPs are derived from the
    cost table of the artifact; `gflops_per_s` is executed FLOPs over the wall time of the train phase.
    `bytes_up` and `bytes_down` are payload bytes since the process started.
    """

    engine: str
    engine_version: str
    threads: int
    step_count: int
    sample_count: int
    loss_first: Reading
    loss_last: Reading
    download: Phase
    load: Phase
    train: Phase
    serialise: Phase
    upload_previous: Phase
    step_ns_p50: Reading
    step_ns_p90: Reading
    step_ns_p99: Reading
    rss_bytes: Reading
    rss_peak_bytes: Reading
    pss_bytes: Reading
    bytes_down: Reading
    bytes_up: Reading
    flops_dense: Reading
    flops_ideal: Reading
    flops_executed: Reading
    gflops_per_s: Reading
    temperature_c: Reading
    frequency_hz: Reading


def percentile(values: Sequence[int], share: float) -> int | None:
    """The nearest-rank percentile of `values` (0 < share <= 1), None of nothing.

    >>> percentile([5, 1, 9, 7], 0.5)
    5
    """
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, math.ceil(share * len(ordered) - 1e-9))  # 0.07 * 100 is a hair more than 7
    return ordered[min(rank, len(ordered)) - 1]
