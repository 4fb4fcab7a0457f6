"""Profiles side by side: rows, medians of valid cases only, the page and the command."""

import json
from html.parser import HTMLParser

import msgspec
import pytest
from typer.testing import CliRunner

from aggregator.profiles.comparison import case_rows, entries, left_out, medians, read_profiles
from aggregator.profiles.page import profiles_html, profiles_html_of_one
from aggregator.report.commands import app
from device_runtime.profile import record
from device_runtime.profile.record import encode_profile
from device_runtime.profile.values import Value, derived, measured
from device_runtime.wire.errors import UsageError
from tests.profiles import NONE, make_case, make_profile


def _layer(name, part, ms, flops=1_000_000, intensity=4.0):
    is_counted = part in ("forward", "backward") and flops
    return record.Layer(
        layer=name,
        step_part=part,
        op="Gemm",
        weight=f"{name}.weight",
        node_count=2,
        time=derived(ms * 1e6, "ns"),
        time_raw=measured(ms * 1e6, "ns"),
        flops_dense=derived(flops, "FLOP"),
        flops_ideal=derived(flops // 10, "FLOP"),
        flops_executed=derived(flops, "FLOP"),
        tensor_bytes=derived(250_000, "B"),
        intensity=derived(intensity, "FLOP/B") if is_counted else NONE,
        rate=derived(flops / ms / 1e6, "GFLOP/s") if is_counted else NONE,
        share_of_roof=derived(0.4, "1") if is_counted else NONE,
        bound="memory" if is_counted else "",
    )


def _layers(count=20):
    rows = [_layer(f"fc<{i}>", part, 0.1 + i / 100) for i in range(count) for part in ("forward", "backward")]
    rows.append(_layer("", "optimizer", 0.01, flops=0))
    total = derived(sum(r.time.value for r in rows), "ns")
    return record.Layers(
        rows=tuple(rows),
        profiled_steps=50,
        node_count=90,
        profiler_per_node=derived(500, "ns"),
        total=total,
        interleaved_step=measured(5_000_000, "ns"),
        explained=derived(0.97, "1"),
        explained_interleaved=derived(0.98, "1"),
    )


@pytest.fixture
def two_boards():
    pi4 = make_profile(make_case(ms=20.0), make_case(sparsity=0.9, ms=19.0), board="rpi4b", model="Pi 4")
    pi5 = make_profile(
        make_case(ms=8.0), make_case(sparsity=0.9, ms=4.0, layers=_layers()), make_case("ort_training", ms=9.0)
    )
    return {"four": pi4, "five": pi5}


def test_a_row_for_everycase(two_boards):
    rows = case_rows(entries(two_boards))
    assert [(r["board"], r["engine"], r["sparsity"]) for r in rows] == [
        ("rpi4b", "portable", 0.0),
        ("rpi4b", "portable", 0.9),
        ("rpi5", "portable", 0.0),
        ("rpi5", "portable", 0.9),
        ("rpi5", "ort_training", 0.0),
    ]
    assert rows[3]["faster_than_dense"] == 2.0
    assert rows[0]["joules_per_step"] is None


def test_medians_are_by_board_and_sparsity():
    found = entries({n: make_profile(make_case(ms=ms)) for n, ms in (("a", 10.0), ("b", 12.0), ("c", 20.0))})
    (row,) = medians(found)
    assert (row["profiles"], row["step_ms_p50"], row["step_ms_lowest"], row["step_ms_highest"]) == (3, 12.0, 10.0, 20.0)


@pytest.mark.parametrize("kind", ["emulated", "throttled", "under-voltage", "noisy"])
def test_only_valid_cases_enter_medians_and_ratios(kind):
    found = entries(
        {"good": make_profile(make_case(), make_case(sparsity=0.9)), "bad": make_profile(make_case(ms=1.0, kind=kind))}
    )
    assert [r["profiles"] for r in medians(found)] == [1, 1]
    assert left_out(found) == [f"bad, portable at sparsity 0: {kind} (because of {kind})"]
    spoiled = entries({"x": make_profile(make_case(kind=kind), make_case(sparsity=0.9))})
    assert case_rows(spoiled)[1]["faster_than_dense"] is None


@pytest.mark.parametrize("other", [{"network": "resnet8"}, {"board": "rpi4b"}])
def test_what_differs_is_never_one_median(other):
    found = entries({"a": make_profile(make_case()), "b": make_profile(make_case(), **other)})
    assert [r["profiles"] for r in medians(found)] == [1, 1]


def test_a_board_that_is_only_guessed_goes_by_its_processors_name():
    (entry,) = entries(
        {"a": make_profile(make_case(), board="x86-gateway", certainty="architecture", model="AMD EPYC")}
    )
    assert entry.board == "AMD EPYC"


class Reader(HTMLParser):
    """Counts elements and checks that they close."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.count, self.words = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader, " ".join(" ".join(reader.words).split())


def test_the_page_shows_every_plot_andcase(two_boards):
    reader, words = _read(profiles_html(two_boards))
    assert reader.count["figure"] == 5  # steps; layers and roofline of the one layered case; FLOPs; memory
    assert "script" not in reader.count
    for title in ("Step time", "Time by layer", "Roofline", "FLOPs of a step", "Memory", "2 boards"):
        assert title in words
    assert "97.0 % of the timed step" in words


def test_the_page_is_the_same_for_the_same_profiles(two_boards):
    assert profiles_html(two_boards) == profiles_html(two_boards)


def test_names_from_a_file_are_text_and_never_markup():
    profile = make_profile(
        make_case(layers=_layers(2)), model="<script>x</script>", certainty="none", network="<b>net</b>"
    )
    page = profiles_html({"<i>name</i>": profile})
    assert "<script>" not in page
    assert "<b>net" not in page
    assert "<i>name" not in page


def test_words_of_a_device_are_neither_markup_nor_commands_to_a_terminal(tmp_path):
    """A run keeps the profiles that devices send, and the same command reads them."""
    words = "[/nope][bold]\x1b[31m$\\frac{$ <b>"
    profile = make_profile(make_case(), make_case(sparsity=0.5), make_case(sparsity=0.9, kind="noisy"), network=words)
    profile = msgspec.structs.replace(profile, failures=("\x1b]0;title\x07",))
    (tmp_path / "pi-1.json").write_bytes(encode_profile(profile))
    ended = CliRunner().invoke(
        app, ["profiles", str(tmp_path / "pi-1.json"), "--html", str(tmp_path / "page.html")], env={"COLUMNS": "200"}
    )
    assert ended.exit_code == 0, ended.exception
    assert "[/nope][bold] [31m" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert "\x1b" not in (tmp_path / "page.html").read_text()


def test_an_emulated_run_is_labelled_and_stands_for_nothing():
    page = profiles_html_of_one(make_profile(make_case(kind="emulated"), emulated="QEMU"))
    _, words = _read(page)
    assert "1 emulated" in words
    assert "a training step on an emulated processor" in words
    assert "No case is valid, so there is no median." in words
    assert "because of emulated" in words


def test_an_estimate_is_called_one():
    joules = Value(value=0.5, unit="J/step", source="estimated")
    _, words = _read(profiles_html_of_one(make_profile(make_case(joules=joules))))
    assert "0.50 (estimated)" in words


def test_a_case_that_failed_is_told(two_boards):
    failed = msgspec.structs.replace(two_boards["four"], failures=("portable at sparsity 0.5: signal 9",))
    assert "Failed: four, portable at sparsity 0.5: signal 9" in _read(profiles_html({"four": failed}))[1]


def test_a_soak_is_drawn_minute_by_minute_and_told(two_boards):
    def minute(steps, *events):
        return record.SoakMinute(
            step_count=steps, seconds=60.0, step_p50=NONE, temperature=NONE, frequency=NONE, events=events
        )  # fmt: skip

    soak = record.Soak(minutes=(minute(6000), minute(4500, "throttled")), slowdown=derived(-0.25, "1"))
    profile = two_boards["four"]
    soaked = msgspec.structs.replace(profile.cases[0], soak=soak)
    profile = msgspec.structs.replace(profile, cases=(soaked, *profile.cases[1:]))
    page = profiles_html({"four": profile})
    assert "75 in the last (-25.0 %); minute 2: throttled." in _read(page)[1]
    assert "Steps per second by minute" in page
    assert "Without a pause" not in _read(profiles_html({"four": two_boards["four"]}))[1]


def test_without_layers_or_limits_the_page_says_so():
    bare = make_profile(make_case("ort_training"))
    unknown = msgspec.structs.replace(bare, roof=record.Roof(threads=1, compute=NONE, bandwidth=NONE))
    _, words = _read(profiles_html_of_one(unknown))
    assert "No layers: engine gives no profile by node." in words


@pytest.fixture
def files(tmp_path, two_boards):
    paths = []
    for name, profile in two_boards.items():
        path = tmp_path / name / "profile.json"
        path.parent.mkdir()
        path.write_bytes(encode_profile(profile))
        paths.append(path)
    return paths


def test_files_of_one_name_are_called_by_their_folder(files):
    assert list(read_profiles(files)) == ["four/profile", "five/profile"]
    assert list(read_profiles(files[:1])) == ["profile"]


def test_a_profile_beside_itself_is_refused(files):
    with pytest.raises(UsageError, match="given twice"):
        read_profiles([files[0], files[0]])


def test_the_command_prints_and_draws(files, tmp_path):
    page = tmp_path / "p.html"
    result = CliRunner().invoke(app, ["profiles", *map(str, files), "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "Medians of valid cases" in result.output
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_command_gives_json(files):
    result = CliRunner().invoke(app, ["profiles", *map(str, files), "--json"])
    found = json.loads(result.output)
    assert len(found["cases"]) == 5
    assert len(found["medians"]) == 5
    assert found["left_out"] == found["failures"] == []
