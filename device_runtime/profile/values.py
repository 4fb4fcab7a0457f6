"""A value of a profile: a number, its unit and where it comes from; and how samples of a time are kept.

A value is measured (read from a clock, the kernel or a sensor), derived (computed from others), estimated (a fitted
model of a sensor), datasheet (a board file's number) or absent (null, with the reason). None of them is ever another.
"""

import math
from typing import Literal

import msgspec

Source = Literal["measured", "derived", "estimated", "datasheet", "absent"]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that refuses keys it does not know."""


class Value(Strict, frozen=True, kw_only=True):
    """One number, its unit and its source; `note` says why it is absent, or how it came about."""

    value: float | int | None
    unit: str
    source: Source
    note: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != (self.source == "absent"):
            raise ValueError("a value is a number exactly when it is not absent")
        if self.value is not None and not _is_finite(self.value):
            raise ValueError("a value is a finite number")


def _is_finite(value: float | int) -> bool:
    """Whether a float can hold it: JSON knows integers of any length."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def absent(unit: str, reason: str) -> Value:
    """A value that this system does not give, and why."""
    return Value(value=None, unit=unit, source="absent", note=reason)


def labelled(source: Source, value: float | int | None, unit: str, note: str = "", *, reason: str = "") -> Value:
    """A value of that source, or absent where there is no finite number; `reason` then says why."""
    if value is None or not math.isfinite(value):
        return absent(unit, reason or "the system does not give it")
    return Value(value=value, unit=unit, source=source, note=note)


def measured(value: float | int | None, unit: str, note: str = "", *, reason: str = "") -> Value:
    """A value read from a clock, the kernel or a sensor."""
    return labelled("measured", value, unit, note, reason=reason)


def derived(value: float | int | None, unit: str, note: str = "", *, reason: str = "") -> Value:
    """A value computed from others."""
    return labelled("derived", value, unit, note, reason=reason)


class Distribution(Strict, frozen=True, kw_only=True):
    """Times in ns by nearest rank; `mad` is the median absolute deviation from the median."""

    source: Literal["measured"] = "measured"
    count: int
    min: int
    p50: int
    p90: int
    p99: int
    mad: int


class PhaseSamples(Strict, frozen=True, kw_only=True):
    """Every sample of a phase in ns, in order: wall time, and CPU time of all threads. Empty when absent."""

    source: Literal["measured", "absent"]
    wall_ns: tuple[int, ...] = ()
    cpu_ns: tuple[int, ...] = ()
    note: str = ""
