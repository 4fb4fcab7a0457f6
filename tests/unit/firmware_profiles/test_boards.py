"""The boards' files: complete, every number with its source, strict, and consistent with one another."""

import re
from importlib.resources import files

import msgspec
import pytest

from device_runtime.wire.errors import UsageError
from firmware_profiles.catalogue import load_board, load_boards, load_sources
from firmware_profiles.schema import (
    Board,
    Cluster,
    Limits,
    Match,
    Memory,
    Number,
    OnnxRuntime,
    Pmu,
    Power,
    PowerSensor,
    System,
    Thermal,
    numbers,
    parse_board,
)

IDS = [
    *("rpi-zero2w", "rpi3b-plus", "rpi4b", "rpi400", "rpi-cm4", "rpi5", "rpi-cm5", "rpi500"),
    *("rk3588", "jetson-orin-nano", "beagleplay", "x86-gateway", "generic-aarch64"),
]
NUMBER = '{ value = 1, unit = "W", kind = "measured", source = "cpufp", date = "2026-08" }'


def text_of(board_id: str) -> str:
    return files("firmware_profiles.boards").joinpath(f"{board_id}.toml").read_text(encoding="utf-8")


def parse(text: str) -> Board:
    return parse_board(text, "boards/x.toml", load_sources())


def test_there_is_a_file_for_every_board_we_name() -> None:
    assert sorted(load_boards()) == sorted(IDS)


@pytest.mark.parametrize("board", load_boards().values(), ids=lambda b: b.id)
def test_every_number_has_its_source_kind_and_date(board: Board) -> None:
    for key, number in numbers(board):
        assert number.source in load_sources(), key
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", number.date), key
        assert number.kind != "derived" or number.note, f"{key} is derived and does not say how"
        assert number.value >= 0, key


@pytest.mark.parametrize("board_id", IDS)
def test_no_number_stands_in_a_file_without_its_record(board_id: str) -> None:
    for line in text_of(board_id).splitlines():
        assert not re.match(r"^\w+ = -?[\d.]+\s*$", line), line


def test_every_source_is_used_and_is_told_where_to_find_it() -> None:
    used = {n.source for b in load_boards().values() for _, n in numbers(b)}
    assert used == set(load_sources())
    assert all(len(s.title) > 10 or s.about for s in load_sources().values())


@pytest.mark.parametrize("board", load_boards().values(), ids=lambda b: b.id)
def test_derived_rates_are_what_their_notes_compute(board: Board) -> None:
    for cluster in board.clusters:
        clock, per_cycle, cores = cluster.clock_max, cluster.flop_per_cycle, cluster.core_count
        peak, sustained = cluster.fp32_peak, cluster.fp32_sustained
        if peak and clock and per_cycle and cores and board.match.architecture == "aarch64":
            assert peak.value == pytest.approx(clock.value * per_cycle.value * cores.value, rel=0.02)
        if peak and sustained:
            share = float(sustained.note.split()[0])
            assert sustained.value == pytest.approx(share * peak.value, rel=0.01)


def test_every_board_says_how_many_threads_and_how_much_memory_to_take() -> None:
    for board in load_boards().values():
        assert board.onnxruntime.intra_threads is not None
        assert board.limits.memory_high is not None
        assert board.limits.memory_max is not None
        assert board.limits.memory_high.value < board.limits.memory_max.value


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("[power]\nidel = " + NUMBER, "unknown key 'idel' in [power]; did you mean 'idle'"),
        ('[power]\nidle = { value = 1, unit = "W", kind = "measured", date = "2026-08" }', "source"),
        ("[power]\nidle = " + NUMBER.replace("cpufp", "hearsay"), "'hearsay', which sources.toml does not list"),
        ("[power]\nidle = " + NUMBER.replace("measured", "guessed"), "guessed"),
        ("[power]\nidle = " + NUMBER.replace("2026-08", "last week"), "power.idle.date"),
        ("[power]\nidle = " + NUMBER.replace('"W"', '"horsepower"'), "horsepower"),
        ("[power]\nidle = " + NUMBER.replace("measured", "derived"), "its note must say from what"),
        ("[power]\nidle = " + NUMBER.replace("value = 1,", "value = 1, upper = 0.5,"), "not above value"),
        ("[power]\nidle = 3", "power.idle"),
    ],
)
def test_a_mistake_in_a_board_file_is_one_sentence_naming_file_and_key(broken: str, said: str) -> None:
    head = 'id = "x"\nname = "X"\n[match]\narchitecture = "aarch64"\n'
    parse(head)
    with pytest.raises(UsageError) as error:
        parse(head + broken)
    assert str(error.value).startswith("boards/x.toml: ")
    assert said in str(error.value)


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(UsageError, match=r"match\.model is not a regular expression"):
        parse('id = "x"\nname = "X"\n[match]\narchitecture = "aarch64"\nmodel = "("\n')


def test_an_unknown_board_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no board 'rpi9'; boards are: beagleplay, .*x86-gateway"):
        load_board("rpi9")


def test_every_field_a_board_may_have_is_explained_in_the_readme() -> None:
    readme = files("firmware_profiles").joinpath("README.md").read_text(encoding="utf-8")
    for record in (
        Board,
        Number,
        Match,
        Cluster,
        Memory,
        Power,
        Thermal,
        Pmu,
        PowerSensor,
        System,
        OnnxRuntime,
        Limits,
    ):
        for field in msgspec.structs.fields(record):
            words = (f"`{field.name}`", f"`[{field.name}]`", f"`[[{field.name}]]`")
            assert any(w in readme for w in words), f"{record.__name__}.{field.name}"
