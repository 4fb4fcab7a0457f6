"""What engine sparse promises beyond every trainer's contract: threads, lists, room, and errors in words."""

from pathlib import Path

import numpy as np
import pytest

from device_runtime.engines import open_engine
from device_runtime.engines.sparse import library
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import STAMP, InputSpec
from device_runtime.wire.support import Kept, Support
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

pytest.importorskip("espalier_kernels")
SHAPE = (3, 12, 12)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-8 with momentum."""
    folder = tmp_path_factory.mktemp("sparse") / "artifact"
    spec = ArtifactSpec(
        name="resnet8", input=InputSpec(shape=SHAPE), class_count=4, loss="cross_entropy",
        optimizer=choose_optimizer("sgd", momentum=0.9),
    )  # fmt: skip
    writer_of("sparse")(build_model("resnet8", SHAPE, 4, seed=1), spec, folder)
    return folder


def _kept(seed: int, density: float) -> dict[str, Kept]:
    draws = np.random.default_rng(seed)
    model = build_model("resnet8", SHAPE, 4, seed=1)
    kept = {}
    for p in model.parameters:
        whole = Support.everything(p.shape)
        support = Support.from_mask(draws.random(p.shape) < density) if p.prunable else whole
        kept[p.name] = Kept.of(np.asarray(model.initial[p.name]), support)
    return kept


def _batch() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(2)
    return draws.normal(size=(33, *SHAPE)).astype(np.float32), draws.integers(0, 4, 33)


def test_bits_do_not_depend_on_the_number_of_threads(artifact: Path) -> None:
    found = []
    for threads in (1, 2, 3):
        trainer = open_engine("sparse").open(artifact, threads=threads, seed=1)
        trainer.load(_kept(1, 0.3), reset_optimizer=True)
        for _ in range(4):
            trainer.step(*_batch(), 0.05)
        found.append({name: kept.values.tobytes() for name, kept in trainer.kept().items()})
    assert found[0] == found[1] == found[2]


def test_stamp_changes_with_the_supports_and_only_then(artifact: Path) -> None:
    trainer = open_engine("sparse").open(artifact, threads=1, seed=1)
    stamps = []
    for seed in (1, 1, 2, 1):
        trainer.load(_kept(seed, 0.3), reset_optimizer=True)
        trainer.step(*_batch(), 0.05)
        stamps.append(int(trainer._fixed.views[STAMP]))  # type: ignore[attr-defined]
    assert stamps == [1, 1, 2, 3]


def test_room_is_taken_for_kept_values_only(artifact: Path) -> None:
    trainer = open_engine("sparse").open(artifact, threads=1, seed=1)
    kept = _kept(1, 0.1)
    trainer.load(kept, reset_optimizer=True)
    for buffers in trainer._sets:  # type: ignore[attr-defined]
        for name, value in kept.items():
            assert buffers.views[name].size == value.support.count
            if f"{name}.momentum" in buffers.views:
                assert buffers.views[f"{name}.momentum"].size == value.support.count


def test_layers_of_nothing_train_the_rest(artifact: Path) -> None:
    kept = _kept(1, 0.3)
    name = "layer2.0.conv1.weight"
    kept[name] = Kept(np.zeros(0, np.float32), Support.from_mask(np.zeros(kept[name].support.shape, np.bool_)))
    trainer = open_engine("sparse").open(artifact, threads=1, seed=1)
    trainer.load(kept, reset_optimizer=True)
    losses = [trainer.step(*_batch(), 0.05).loss for _ in range(10)]
    assert losses[-1] < losses[0]
    assert trainer.kept()[name].values.size == 0


def test_missing_library_is_an_error_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_library", lambda: None)
    with pytest.raises(EngineError, match="pip install --upgrade espalier-kernels"):
        library.KernelsLibrary()


def test_artifact_that_asks_for_other_operators_is_an_error_with_the_command_that_mends_it(
    artifact: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    later = tmp_path / "later"
    later.mkdir()
    for path in artifact.iterdir():
        (later / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(later / "train_step.onnx")
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "operators":
                attribute.i = 2
    onnx.save(graph, later / "train_step.onnx")
    with pytest.raises(EngineError, match="needs sparse operators that version 1 of the library does not have"):
        open_engine("sparse").open(later, threads=1, seed=1)
