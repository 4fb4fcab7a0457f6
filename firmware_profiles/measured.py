"""What a board measured of itself, kept in the device's own folder, and how it overrides the board's static numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.wire.errors import UsageError
from firmware_profiles.schema import Board, Date, Number

MEASURED_FILE = "board-measured.json"
Quantity = Literal["gemm_core", "gemm_all", "conv_core", "conv_all", "copy_core", "copy_all", "add_core", "add_all"]


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark: its best rate, the rate of every repeat in order, and what ran."""

    quantity: Quantity
    value: float
    unit: Literal["GFLOP/s", "GB/s"]
    threads: int
    samples: tuple[float, ...]
    how: str


class MeasuredBoard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A self-benchmark. `hypervisor` is set where times are not a board's; `doubts` say why it may be too slow."""

    schema: Literal[1] = 1
    board: str
    date: Date
    machine: str
    versions: dict[str, str]
    rates: tuple[Rate, ...]
    hypervisor: str | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roofs:
    """The limits a training step meets: fp32 rate and memory rate (bytes read plus written), one core and all;
    `conv` is what onnxruntime's convolution reaches. A limit that nobody knows is None."""

    fp32_core: Number | None = None
    fp32_all: Number | None = None
    memory_core: Number | None = None
    memory_all: Number | None = None
    conv_core: Number | None = None
    conv_all: Number | None = None


def load_measured(folder: Path) -> MeasuredBoard | None:
    """The self-benchmark kept in a device's folder, None when there is none.

    Raises UsageError when the file is there but cannot be used, saying how to make it again.
    """
    path = folder / MEASURED_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=MeasuredBoard)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be used: {error}. Run 'espalier boards measure' again.") from error


def roofs(board: Board, measured: MeasuredBoard | None) -> Roofs:
    """The board's limits: what it measured of itself, else what its file knows.

    A limit is the best that was seen: all cores can do at least what one did, whatever else ran at the time.
    """
    static = _static_roofs(board)
    if measured is None:
        return static

    def override(known: Number | None, *quantities: Quantity) -> Number | None:
        rates = [r for r in measured.rates if r.quantity in quantities]
        if not any(r.quantity == quantities[0] for r in rates):
            return known  # one core alone says nothing of all
        return _number(max(rates, key=lambda r: r.value), measured.date)

    return Roofs(
        fp32_core=override(static.fp32_core, "gemm_core", "conv_core"),
        fp32_all=override(static.fp32_all, "gemm_all", "conv_all", "gemm_core", "conv_core"),
        memory_core=override(static.memory_core, "copy_core", "add_core"),
        memory_all=override(static.memory_all, "copy_all", "add_all", "copy_core", "add_core"),
        conv_core=override(None, "conv_core"),
        conv_all=override(None, "conv_all", "conv_core"),
    )


def _static_roofs(board: Board) -> Roofs:
    cluster = board.clusters[0] if board.clusters else None
    copy = cluster.copy_core if cluster else None
    return Roofs(
        fp32_core=cluster.fp32_peak_core if cluster else None,
        fp32_all=cluster.fp32_peak if cluster else None,
        memory_core=None if copy is None else _twice(copy),
        memory_all=board.memory.stream_copy or board.memory.rate_peak,
    )


def _twice(copy: Number) -> Number:
    """memcpy counts a byte once; reading and writing it moves two."""
    return msgspec.structs.replace(
        copy,
        value=2 * copy.value,
        upper=None if copy.upper is None else 2 * copy.upper,
        kind="derived",
        note="twice memcpy: bytes read plus written",
    )


def _number(rate: Rate, date: str) -> Number:
    return Number(value=rate.value, unit=rate.unit, kind="measured", source="self", date=date, note=rate.how)
