"""The command line of a profile: options that do not go together, artifacts and hooks by name, tables."""

import importlib.metadata
import tomllib
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from device_runtime.engines.registry import GROUP as ENGINES
from device_runtime.profile import artifacts as artifacts_module
from device_runtime.profile import command as command_module
from device_runtime.profile.artifacts import checked_folders, chosen_engines, made_folders
from device_runtime.profile.command import Options, parse_sparsities, plan_of, profile_command
from device_runtime.profile.record import read_profile
from device_runtime.profile.table import milliseconds, number, percent, scaled, show
from device_runtime.profile.values import absent, measured
from device_runtime.wire.errors import UsageError

PYPROJECT = Path(__file__).parents[4] / "pyproject.toml"


def options(**more):
    given = {
        "artifacts": [],
        "model": "",
        "input_shape": "1,8,8",
        "class_count": 10,
        "sparsity": "0",
        "engine": "portable",
        "batch": 8,
        "threads": 1,
        "repeats": None,
        "seconds": None,
        "quick": False,
        "soak_minutes": 0.0,
        "seed": 0,
        "json": None,
        "html": None,
    }
    return Options(**given | more)


def point(monkeypatch, module, value=None):
    """As if one entry point were installed besides the engines, or none."""
    real = importlib.metadata.entry_points

    class Point:
        def load(self):
            if isinstance(value, Exception):
                raise value
            return value

    def entry_points(**wanted):
        if wanted["group"] == ENGINES:
            return real(**wanted)
        return [Point()] if value is not None else []

    monkeypatch.setattr(module.importlib.metadata, "entry_points", entry_points)


def test_the_method_is_that_of_the_reference_unless_told_otherwise():
    assert (plan_of(options()).repeats, plan_of(options()).seconds) == (5, 10.0)
    assert plan_of(options(repeats=3, seconds=2.0)).seconds == 2.0
    assert plan_of(options(quick=True, soak_minutes=5)).soak_minutes == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"quick": True, "repeats": 5},
        {"quick": True, "seconds": 1.0},
        {"repeats": 2},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"soak_minutes": -1.0},
        {"soak_minutes": float("nan")},
    ],
)
def test_a_method_out_of_range_is_refused(wrong):
    with pytest.raises(UsageError, match=r"out of range|leave"):
        plan_of(options(**wrong))


def test_sparsities_are_read_in_order_and_once():
    assert parse_sparsities("0.9,0,0.90, .5") == (0.9, 0.0, 0.5)


@pytest.mark.parametrize("text", ["", "1", "1.0", "-0.5", "0.5,", "half", "0.5;0.9", "nan", "1e-3"])
def test_what_is_no_sparsity_is_refused(text):
    with pytest.raises(UsageError, match="--sparsity"):
        parse_sparsities(text)


@pytest.mark.parametrize("given", [{}, {"model": "mlp", "artifacts": ["x"]}])
def test_model_or_artifact(given):
    with pytest.raises(UsageError, match="one of the two"):
        profile_command(options(**given))


def test_an_artifact_folder_is_checked_whole(artifact, tmp_path):
    assert checked_folders([artifact], "auto") == [artifact]
    assert checked_folders([artifact], "portable") == [artifact]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="both for engine"):
        checked_folders([artifact, copy], "auto")
    (copy / "eval.onnx").write_bytes(b"rotten")
    with pytest.raises(UsageError, match="not the file that the manifest names"):
        checked_folders([copy], "auto")


def test_what_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no artifact folder"):
        checked_folders([tmp_path], "auto")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="malformed"):
        checked_folders([tmp_path], "auto")


def test_an_engine_that_no_artifact_is_for(artifact, monkeypatch):
    monkeypatch.setattr(artifacts_module, "available_engines", lambda: ("ort_training", "portable"))
    with pytest.raises(UsageError, match="no --artifact is for engine 'ort_training'"):
        checked_folders([artifact], "portable,ort_training")


def test_an_engine_that_does_not_run_here(artifact, monkeypatch):
    monkeypatch.setattr(artifacts_module, "available_engines", lambda: ("ort_training",))
    with pytest.raises(UsageError, match="does not run here"):
        checked_folders([artifact], "auto")
    with pytest.raises(UsageError, match="does not run here"):
        chosen_engines("portable")
    with pytest.raises(UsageError, match="names no engine"):
        chosen_engines(" , ")
    assert chosen_engines("auto") == ("ort_training",)


def test_a_model_needs_export(monkeypatch, tmp_path):
    point(monkeypatch, artifacts_module)
    with pytest.raises(UsageError, match="give --artifact"):
        made_folders("mlp", ["portable"], tmp_path, input_shape="1,8,8", class_count=10)
    point(monkeypatch, artifacts_module, ModuleNotFoundError("no", name="onnx"))
    with pytest.raises(UsageError, match="needs onnx"):
        made_folders("mlp", ["portable"], tmp_path, input_shape="1,8,8", class_count=10)


def test_a_page_needs_the_aggregator(monkeypatch, artifact, tmp_path):
    point(monkeypatch, command_module)
    with pytest.raises(UsageError, match="espalier report profiles"):
        profile_command(options(artifacts=[artifact], html=tmp_path / "a.html"))


def test_the_hooks_name_functions_that_are_there():
    table = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]
    for group, name in ((artifacts_module.GROUP, artifacts_module.POINT), (command_module.PAGES, command_module.PAGE)):
        point = importlib.metadata.EntryPoint(name, table[group][name], group)
        assert callable(point.load())


def test_a_run_writes_json_and_page_and_prints(monkeypatch, artifact, tmp_path, make_profile, capsys):
    seen = []
    monkeypatch.setattr(command_module, "run_profile", lambda request, told: seen.append(request) or make_profile())
    point(monkeypatch, command_module, lambda profile: f"<p>{profile.subject.model}</p>")
    json, html = tmp_path / "a.json", tmp_path / "a.html"
    profile_command(options(artifacts=[artifact], sparsity="0,0.9", json=json, html=html))
    assert seen[0].sparsities == (0.0, 0.9)
    assert read_profile(json) == make_profile()
    assert html.read_text() == "<p>mlp</p>"
    assert "portable 0.9" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["", "file/x.json"])
def test_a_file_that_cannot_be_written_is_told_before_the_run(artifact, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        profile_command(options(artifacts=[artifact], json=tmp_path / place))


def test_the_model_is_made_for_every_engine(monkeypatch, make_profile):
    from export.artifacts.of_models import write_model_artifact

    seen = []

    def run(request, told):
        told("half", 0.5)
        seen.extend(sorted(p.name for p in request.artifacts[0].iterdir()))
        return make_profile()

    monkeypatch.setattr(command_module, "run_profile", run)
    point(monkeypatch, artifacts_module, write_model_artifact)
    profile_command(options(model="mlp"))
    assert seen == ["eval.onnx", "manifest.json", "train_step.onnx"]


def printed(profile):
    console = Console(width=80, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    show(profile, console)
    return console.export_text()


def test_the_tables_fit_a_terminal(make_profile):
    profile = make_profile()
    longest = msgspec.structs.replace(profile.cases[1], engine="ort_training")
    text = printed(msgspec.structs.replace(profile, cases=(*profile.cases, longest)))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for words in ("rpi5", "portable 0", "portable 0.9", "valid", "doubt:", "absent: energy", "offline profile"):
        assert words in text
    assert "…" not in text


def test_a_failure_is_printed(make_profile):
    failed = msgspec.structs.replace(make_profile(), failures=("portable at sparsity 0.5: signal 9",))
    assert "failed: portable at sparsity 0.5: signal 9" in printed(failed)


def test_an_emulated_run_says_so_in_words(make_profile):
    assert "emulated: QEMU user mode" in printed(make_profile(emulated="QEMU user mode"))


def test_numbers_in_words():
    assert [milliseconds(v) for v in (None, 1_234_567, 123_456_789)] == ["\N{EN DASH}", "1.23", "123"]
    assert [number(v) for v in (absent("1", "?"), measured(0.12345, "1"), measured(1234.5, "1"))] == [
        "\N{EN DASH}", "0.123", "1234",
    ]  # fmt: skip
    assert percent(measured(0.123, "1")) == "12.3 %"
    assert [scaled(measured(v, "B")) for v in (950, 1500, 2_500_000_000)] == ["950", "1.5 k", "2.5 G"]
