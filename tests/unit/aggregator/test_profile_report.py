"""Profiles side by side: rows, medians of valid cases only, the page and the command."""

import json
from html.parser import HTMLParser

import msgspec
import pytest
from typer.testing import CliRunner

from aggregator.profile_comparison import case_rows, entries, left_out, medians, read_profiles
from aggregator.profile_report import profiles_html, profiles_html_of_one
from aggregator.report_commands import app
from device_runtime.profile import record
from device_runtime.profile.record import Value, absent, derived, encode_profile, measured
from device_runtime.wire.errors import UsageError

NONE = absent("B", "not given")
NO_PHASE = record.Phase(source="absent", note="offline")


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


def _case(engine="portable", sparsity=0.0, kind="valid", ms=10.0, layers=None, joules=NONE):
    ns = int(ms * 1e6)
    one = measured(1, "ns")
    repeat = record.Repeat(
        step_ns=(ns,) * 10, wall_ns=10 * ns, cpu_ns=10 * ns, cooled_seconds=0.0,
        temperature_start=NONE, temperature_end=NONE, frequency_start=NONE, frequency_end=NONE,
        events=(), others=NONE, stolen=NONE, energy=NONE, counters={},
    )  # fmt: skip
    return record.Case(
        engine=engine,
        engine_version="1",
        artifact_sha="ab",
        sparsity=sparsity,
        kept_count=10,
        prunable_count=100,
        threads=1,
        batch=32,
        cold=record.Cold(import_engine=one, open=one, load=one, first_step=one),
        warm_up=record.WarmUp(steps=10, seconds=1.0, is_stable=True),
        download=NO_PHASE,
        load=NO_PHASE,
        serialise=NO_PHASE,
        upload=NO_PHASE,
        step=record.Distribution(count=30, min=ns, p50=ns, p90=ns + 1000, p99=ns + 9000, mad=10),
        repeats=(repeat,) * 3,
        spread=derived(0.01, "1"),
        steps_per_second=derived(1e9 / ns, "1/s"),
        samples_per_second=derived(32e9 / ns, "1/s"),
        flops=record.StepFlops(
            dense=derived(2_000_000, "FLOP"), ideal=derived(200_000, "FLOP"), executed=derived(2_100_000, "FLOP")
        ),
        rate=derived(2_100_000 / ns, "GFLOP/s"),
        share_of_peak=derived(0.2, "1"),
        memory=record.Memory(
            pss=measured(60_000_000, "B"), pss_anonymous=NONE, swap_pss=NONE, rss_peak=NONE,
            swap_used_before=NONE, swap_used_after=NONE,
        ),
        energy=record.Energy(sensor="none", idle_power=NONE, gross_per_step=joules, net_per_step=joules),
        counters_per_step={},
        payload=record.Payload(params=NONE, supports=NONE, update=derived(9000, "B"), socket=NONE),
        layers=layers,
        layers_note="engine gives no profile by node",
        soak=None,
        verdict=record.Verdict(kind=kind, reasons=() if kind == "valid" else (f"because of {kind}",)),
    )  # fmt: skip


def _profile(*cases, board="rpi5", certainty="board", model="Raspberry Pi 5", emulated="", network="lenet5"):
    return record.Profile(
        date="2026-01-01T00:00:00+00:00",
        machine=record.Machine(
            board=board, board_certainty=certainty, model=model, architecture="aarch64", kernel="6.12",
            page_size=16384, cores=4, cores_usable=4, emulated=emulated, hypervisor="", versions={"numpy": "2"},
        ),
        preflight=record.Preflight(
            governor="", load_1min=NONE, temperature=NONE, frequency=NONE, events=(), swap_used=NONE,
            memory_available=NONE, doubts=(),
        ),
        plan=record.Plan(),
        subject=record.Subject(
            model=network, input_shape=(1, 8, 8), class_count=10, optimizer="sgd", seed=0, data="d", masks="m"
        ),
        roof=record.Roof(threads=1, compute=measured(38.0, "GFLOP/s"), bandwidth=measured(9.0, "GB/s")),
        cases=cases,
    )  # fmt: skip


@pytest.fixture
def two_boards():
    pi4 = _profile(_case(ms=20.0), _case(sparsity=0.9, ms=19.0), board="rpi4b", model="Pi 4")
    pi5 = _profile(_case(ms=8.0), _case(sparsity=0.9, ms=4.0, layers=_layers()), _case("ort_training", ms=9.0))
    return {"four": pi4, "five": pi5}


def test_a_row_for_every_case(two_boards):
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
    found = entries({n: _profile(_case(ms=ms)) for n, ms in (("a", 10.0), ("b", 12.0), ("c", 20.0))})
    (row,) = medians(found)
    assert (row["profiles"], row["step_ms_p50"], row["step_ms_lowest"], row["step_ms_highest"]) == (3, 12.0, 10.0, 20.0)


@pytest.mark.parametrize("kind", ["emulated", "throttled", "under-voltage", "noisy"])
def test_only_valid_cases_enter_medians_and_ratios(kind):
    found = entries({"good": _profile(_case(), _case(sparsity=0.9)), "bad": _profile(_case(ms=1.0, kind=kind))})
    assert [r["profiles"] for r in medians(found)] == [1, 1]
    assert left_out(found) == [f"bad, portable at sparsity 0: {kind} (because of {kind})"]
    spoiled = entries({"x": _profile(_case(kind=kind), _case(sparsity=0.9))})
    assert case_rows(spoiled)[1]["faster_than_dense"] is None


@pytest.mark.parametrize("other", [{"network": "resnet8"}, {"board": "rpi4b"}])
def test_what_differs_is_never_one_median(other):
    found = entries({"a": _profile(_case()), "b": _profile(_case(), **other)})
    assert [r["profiles"] for r in medians(found)] == [1, 1]


def test_a_board_that_is_only_guessed_goes_by_its_processors_name():
    (entry,) = entries({"a": _profile(_case(), board="x86-gateway", certainty="architecture", model="AMD EPYC")})
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


def test_the_page_shows_every_plot_and_case(two_boards):
    reader, words = _read(profiles_html(two_boards))
    assert reader.count["figure"] == 5  # steps; layers and roofline of the one layered case; FLOPs; memory
    assert "script" not in reader.count
    for title in ("Step time", "Time by layer", "Roofline", "FLOPs of a step", "Memory", "2 boards"):
        assert title in words
    assert "97.0 % of the timed step" in words


def test_the_page_is_the_same_for_the_same_profiles(two_boards):
    assert profiles_html(two_boards) == profiles_html(two_boards)


def test_names_from_a_file_are_text_and_never_markup():
    profile = _profile(_case(layers=_layers(2)), model="<script>x</script>", certainty="none", network="<b>net</b>")
    page = profiles_html({"<i>name</i>": profile})
    assert "<script>" not in page
    assert "<b>net" not in page
    assert "<i>name" not in page


def test_an_emulated_run_is_labelled_and_stands_for_nothing():
    page = profiles_html_of_one(_profile(_case(kind="emulated"), emulated="QEMU"))
    _, words = _read(page)
    assert "1 emulated" in words
    assert "a training step on an emulated processor" in words
    assert "No case is valid, so there is no median." in words
    assert "because of emulated" in words


def test_an_estimate_is_called_one():
    joules = Value(value=0.5, unit="J/step", source="estimated")
    _, words = _read(profiles_html_of_one(_profile(_case(joules=joules))))
    assert "0.50 (estimated)" in words


def test_a_case_that_failed_is_told(two_boards):
    failed = msgspec.structs.replace(two_boards["four"], failures=("portable at sparsity 0.5: signal 9",))
    assert "Failed: four, portable at sparsity 0.5: signal 9" in _read(profiles_html({"four": failed}))[1]


def test_without_layers_or_limits_the_page_says_so():
    bare = _profile(_case("ort_training"))
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
