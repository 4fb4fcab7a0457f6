"""What a board measures of itself, as it is kept in the device's own folder, and the limits that its file knows."""

from dataclasses import dataclass
from typing import Literal

import msgspec

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
    """The limits a training step meets: fp32 rate and memory rate (bytes read plus written), one core and all. A limit
    that nobody knows is None."""

    fp32_core: Number | None = None
    fp32_all: Number | None = None
    memory_core: Number | None = None
    memory_all: Number | None = None


def roofs(board: Board) -> Roofs:
    """The board's limits, as its file knows them."""
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
