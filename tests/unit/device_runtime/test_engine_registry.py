"""An engine is an entry point and what it names: a toy one is chosen, offered and served, and no file knows it."""

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aggregator.artifacts import Artifacts
from aggregator.settings import ModelSection, RoundsSection, RunSection, Settings, TrainingSection
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData
from device_runtime.engines import available_engines, engine_names, offered_engines, open_engine
from device_runtime.engines.registry import GROUP, engine_kind
from device_runtime.profile.case import run_case
from device_runtime.profile.methodology import quick_plan
from device_runtime.profile.record import Roof
from device_runtime.profile.tally import CaseJob
from device_runtime.profile.values import absent
from device_runtime.store import BlobStore
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import InputSpec
from export.artifacts.spec import ArtifactSpec
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests.toy_engine import install_toy

ROOT = Path(__file__).parents[3]
SPEC = ArtifactSpec(
    name="mlp", input=InputSpec(shape=(4,)), class_count=3, loss="cross_entropy", optimizer=choose_optimizer("sgd")
)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("toy_engine", None)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts", BlobStore(tmp_path / "blobs"), build_model("mlp", (4,), 3, seed=1), SPEC)


def test_a_toy_engine_is_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path, monkeypatch)
    assert (open_engine("toy").name, open_engine("toy").version) == ("toy", "7")
    assert offered_engines("toy") == ("toy",)


def test_it_is_among_the_engines_that_an_error_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path, monkeypatch)
    with pytest.raises(EngineError, match="engines are: auto, ort_training, portable, sparse, toy"):
        open_engine("warp")


@pytest.mark.parametrize(("preference", "place"), [(1, -1), (99, 0)])
def test_auto_offers_it_at_the_place_of_its_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preference: int, place: int
) -> None:
    others = available_engines()
    install_toy(tmp_path, monkeypatch, preference=preference)
    offered = offered_engines("auto")
    assert offered[place] == "toy"
    assert tuple(name for name in offered if name != "toy") == others
    assert open_engine("auto").name == offered[0]


def test_where_it_is_not_installed_it_is_known_and_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path, monkeypatch, installed=False)
    assert "toy" in engine_names()
    assert "toy" not in offered_engines("auto")
    with pytest.raises(EngineError, match="it needs a box of bricks, which is not installed"):
        open_engine("toy")


def test_the_order_does_not_depend_on_the_order_of_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(importlib.metadata.entry_points(group=GROUP))
    assert len(found) > 1
    names = engine_names()
    for order in (found, found[::-1]):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda order=order, **_: order)
        assert engine_names() == names


def test_the_aggregator_makes_its_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Artifacts
) -> None:
    install_toy(tmp_path, monkeypatch)
    engine, artifact = artifacts.for_engines(["toy", "portable"])
    assert (engine, artifact.manifest.engine) == ("toy", "toy")
    assert [file.name for file in artifact.manifest.files] == ["toy.bin"]
    assert artifact.graph_sha in artifacts.shas


def test_the_next_engine_is_served_where_the_first_is_unknown(artifacts: Artifacts) -> None:
    assert artifacts.for_engines(["toy", "portable"])[0] == "portable"
    with pytest.raises(EngineError, match="there is no engine 'toy'"):
        artifacts.for_engines(["toy"])
    with pytest.raises(EngineError, match="known engines: ort_training, portable"):
        artifacts.for_engines([])


def test_what_cannot_be_made_is_tried_once(monkeypatch: pytest.MonkeyPatch, artifacts: Artifacts) -> None:
    asked = []

    def writer_of(engine: str) -> None:
        asked.append(engine)
        raise EngineError("no")

    monkeypatch.setattr("aggregator.artifacts.writer_of", writer_of)
    for _ in range(3):
        with pytest.raises(EngineError, match="no artifact can be made"):
            artifacts.for_engines(["portable"])
    assert asked == ["portable"]


def test_a_federation_trains_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path, monkeypatch)
    data = LocalData(np.ones((8, 4), np.float32), np.arange(8) % 3, "drawn")
    settings = Settings(
        run=RunSection(folder=str(tmp_path / "run")), input=InputSpec(shape=(4,)),
        model=ModelSection(name="mlp", classes=3), rounds=RoundsSection(count=1),
        training=TrainingSection(local_epochs=1, batch_size=4, learning_rate=0.5),
    )  # fmt: skip
    run = run_in_process(settings, {"a": data, "b": data}, tmp_path / "run", engine="toy")
    assert run.update_bytes > 0
    (outcome,) = run.outcomes
    assert set(outcome.scores) == {"a", "b"}


def test_its_steps_are_profiled_and_counted_by_its_own_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Artifacts
) -> None:
    install_toy(tmp_path, monkeypatch)
    artifacts.for_engines(["toy"])
    roof = Roof(threads=1, compute=absent("GFLOP/s", "none"), bandwidth=absent("GB/s", "none"))
    job = CaseJob(
        artifact=str(artifacts.folder("toy")), sparsity=0.5, threads=1, batch=4, seed=0, plan=quick_plan(), roof=roof,
        cores=1,
    )  # fmt: skip
    case = run_case(job, lambda *_: None)
    assert (case.engine, case.engine_version) == ("toy", "7")
    assert case.flops.executed.value == sum(4 * row.flops_forward // 2 for row in artifacts.manifest.costs)
    assert case.layers is None
    assert case.layers_note == "engine 'toy' gives no trace by node"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("toy = toy_engine:ABSENT", "engine 'toy' .* cannot be loaded"),
        ("toy = no_such_module:KIND", "engine 'toy' .* cannot be loaded: No module named 'no_such_module'"),
        ("toy = toy_engine:half", "gives no engine of that name"),
        ("other = toy_engine:KIND", "gives no engine of that name"),
    ],
)
def test_an_entry_point_that_gives_no_engine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, says: str
) -> None:
    install_toy(tmp_path, monkeypatch, entry=entry)
    with pytest.raises(EngineError, match=says):
        engine_names()


def test_two_engines_of_one_name_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [importlib.metadata.EntryPoint("toy", f"{module}:KIND", GROUP) for module in ("toy_one", "toy_two")]
    for module in ("toy_one", "toy_two"):
        install_toy(tmp_path / module, monkeypatch)
        (tmp_path / module / "toy_engine.py").rename(tmp_path / module / f"{module}.py")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: twice)
    with pytest.raises(EngineError, match="two engines are called 'toy'"):
        engine_names()


def test_an_installation_without_the_entry_points_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])
    with pytest.raises(EngineError, match="install espalier-fl again"):
        open_engine("portable")


def test_a_writer_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path, monkeypatch)
    text = (tmp_path / "toy_engine.py").read_text()
    (tmp_path / "toy_engine.py").write_text(text.replace('"toy_engine:write"', '"no_such_module:write"'))
    with pytest.raises(EngineError, match="no_such_module:write of engine 'toy' cannot be loaded"):
        engine_kind("toy").load_writer()


def test_the_registered_engines_are_those_of_the_project_file() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    for name, place in table.items():
        kind = importlib.metadata.EntryPoint(name, place, GROUP).load()
        assert engine_kind(name) is kind
        assert callable(kind.load_writer())
        assert callable(kind.load_tracer())
