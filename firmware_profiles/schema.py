"""What a board's TOML file may say: every number with its unit, kind, source and date, and no key that is not here.

A field that no source gives is left out; nothing is guessed. `docs` of each field are in README.md.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device_runtime.wire.errors import UsageError
from device_runtime.wire.settings import parse_settings

Kind = Literal["measured", "datasheet", "derived"]
Unit = Literal[
    "GHz", "GFLOP/s", "flop/cycle", "GB/s", "GB", "KiB", "MiB", "W", "°C", "1", "%", "cores", "threads", "counters"
]
Date = Annotated[str, Meta(pattern=r"^20\d\d-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?$")]
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Midr = Annotated[str, Meta(pattern=r"^0x[0-9a-f]{2}:0x[0-9a-f]{3}$")]
CpuList = Annotated[str, Meta(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that refuses keys it does not know."""


class Number(_Strict, frozen=True, kw_only=True):
    """A value, what it counts, how it came about, and where it stands.

    `kind`: measured (somebody ran it), datasheet (the maker says so), derived (computed; `note` says how). `source` is
    a key of sources.toml. `date` is that of the source, or of the copy of it that was read. `upper` is the other end
    where the source gives a range.
    """

    value: float
    unit: Unit
    kind: Kind
    source: Name
    date: Date
    upper: float | None = None
    note: str = ""


class Match(_Strict, frozen=True, kw_only=True):
    """How a board is recognised. `fallback` boards answer for an architecture when no other board matches."""

    architecture: Literal["aarch64", "x86_64"]
    compatible: tuple[Text, ...] = ()
    model: str = ""
    midr: tuple[Midr, ...] = ()
    cpu_model: str = ""
    fallback: bool = False


class Cluster(_Strict, frozen=True, kw_only=True):
    """Cores of one kind. Rates are of fp32 multiply-adds, two operations each."""

    core: Text
    cpus: CpuList = "0"
    features: tuple[Text, ...] = ()
    core_count: Number | None = None
    clock_max: Number | None = None
    clock_late: Number | None = None
    flop_per_cycle: Number | None = None
    fp32_peak_core: Number | None = None
    fp32_peak: Number | None = None
    fp32_sustained: Number | None = None
    copy_core: Number | None = None
    l1_data: Number | None = None
    l2_core: Number | None = None
    l2_shared: Number | None = None
    l3_shared: Number | None = None


class Memory(_Strict, frozen=True, kw_only=True):
    """Main memory: sizes sold, the interface's rate, and STREAM's copy rate (bytes read plus written)."""

    sizes: tuple[Number, ...] = ()
    rate_peak: Number | None = None
    stream_copy: Number | None = None


class Power(_Strict, frozen=True, kw_only=True):
    """Drawn at the wall: doing nothing, under stress-ng, under Linpack; and modes the maker names."""

    idle: Number | None = None
    stress: Number | None = None
    linpack: Number | None = None
    modes: tuple[Number, ...] = ()


class Thermal(_Strict, frozen=True, kw_only=True):
    """Where the board slows down, and how warm it gets under load without and with its cooler."""

    soft_limit: Number | None = None
    throttle: Number | None = None
    passive: Number | None = None
    critical: Number | None = None
    load_bare: Number | None = None
    load_cooled: Number | None = None
    needs_cooler: bool = False


class Pmu(_Strict, frozen=True, kw_only=True):
    """Hardware counters. `fp_events` are counters of speculated instructions, not of operations; [] is known none."""

    counters: Number | None = None
    fp_events: tuple[Text, ...] | None = None
    note: str = ""


class PowerSensor(_Strict, frozen=True, kw_only=True):
    """What the board itself knows of its power; `fit_*` correct a sum of rails to the wall (slope × W + offset)."""

    kind: Literal["none", "pmic", "ina3221", "rapl"] = "none"
    quality: Literal["none", "estimated", "measured"] = "none"
    rails: Number | None = None
    fit_slope: Number | None = None
    fit_offset: Number | None = None
    note: str = ""


class System(_Strict, frozen=True, kw_only=True):
    """How the usual operating system of the board is set up."""

    page_size: Number | None = None
    governor: str = ""
    swap: str = ""
    memory_cgroup: Literal["", "on", "off"] = ""
    bits_of_vcgencmd: bool = False


class OnnxRuntime(_Strict, frozen=True, kw_only=True):
    """Settings to start from. `cpus` pins the threads; "" leaves them free."""

    intra_threads: Number | None = None
    inter_threads: Number | None = None
    cpus: CpuList | Literal[""] = ""
    allow_spinning: bool = False


class Limits(_Strict, frozen=True, kw_only=True):
    """What a service may take of the board, as shares of its memory, and how warm it may train."""

    memory_high: Number | None = None
    memory_max: Number | None = None
    swap_max: Number | None = None
    temperature_max: Number | None = None


class Board(_Strict, frozen=True, kw_only=True):
    """One board. The first cluster is the one to train on."""

    id: Name
    name: Text
    soc: str = ""
    match: Match
    clusters: tuple[Cluster, ...] = ()
    memory: Memory = Memory()
    linpack_fp64: Number | None = None
    power: Power = Power()
    thermal: Thermal = Thermal()
    pmu: Pmu = Pmu()
    power_sensor: PowerSensor = PowerSensor()
    system: System = System()
    onnxruntime: OnnxRuntime = OnnxRuntime()
    limits: Limits = Limits()


class Source(_Strict, frozen=True, kw_only=True):
    """Where numbers come from: a title that finds it, and what it is."""

    title: Text
    about: str = ""


def parse_board(text: str, place: str, sources: Mapping[str, Source]) -> Board:
    """A board from its TOML text.

    Raises UsageError naming `place` and the key: an unknown key, a number without its source or with one that
    sources.toml lacks, a derived number that does not say how, a pattern that is not a regular expression.
    """
    board = parse_settings(text, Board, place)
    for key, number in numbers(board):
        if number.source not in sources:
            raise UsageError(f"{place}: {key} has the source {number.source!r}, which sources.toml does not list.")
        if number.kind == "derived" and not number.note:
            raise UsageError(f"{place}: {key} is derived; its note must say from what.")
        if number.upper is not None and number.upper <= number.value:
            raise UsageError(f"{place}: {key} has upper {number.upper}, which is not above value {number.value}.")
    for key in ("model", "cpu_model"):
        try:
            re.compile(getattr(board.match, key))
        except re.error as error:
            raise UsageError(f"{place}: match.{key} is not a regular expression: {error}.") from error
    return board


def parse_sources(text: str, place: str) -> dict[str, Source]:
    """The sources by key. Raises UsageError naming `place` and what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(text), dict[str, Source])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{place}: {error}.") from error


def numbers(record: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Number]]:
    """Every number of a record with its dotted key, e.g. `clusters[0].fp32_peak`."""
    for field in msgspec.structs.fields(record):
        value, key = getattr(record, field.name), f"{prefix}{field.name}"
        if isinstance(value, Number):
            yield key, value
        elif isinstance(value, msgspec.Struct):
            yield from numbers(value, f"{key}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Number):
                    yield f"{key}[{index}]", item
                elif isinstance(item, msgspec.Struct):
                    yield from numbers(item, f"{key}[{index}].")
