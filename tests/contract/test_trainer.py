"""What every `Trainer` promises, whichever engine, optimizer and model stand behind it."""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.engines import Trainer, available_engines, open_engine
from device_runtime.metering.system import rss_bytes
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import InputSpec, Manifest
from device_runtime.wire.support import Kept, Support, cut
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.parameters import initial_params
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

CLASSES = 5
SHAPES = {"mlp": (1, 8, 8), "lenet5": (1, 16, 16), "resnet8": (3, 8, 8), "cnn1d": (6, 16)}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "momentum": {"name": "sgd", "momentum": 0.9},
    "nesterov": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "weight decay": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-2},
    "adamw": {"name": "adamw", "weight_decay": 1e-2},
}
Bits = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """An artifact, its initial parameters cut to random masks, and a few batches."""

    engine: str
    artifact: Path
    manifest: Manifest
    kept: dict[str, Kept]
    batches: list[tuple[np.ndarray, np.ndarray]]

    def open(self, seed: int = 1) -> Trainer:
        """A trainer that has loaded the initial parameters."""
        trainer = open_engine(self.engine).open(self.artifact, threads=1, seed=seed)
        trainer.load(self.kept, reset_optimizer=True)
        return trainer

    def run(self, trainer: Trainer, count: int) -> list[float]:
        """The losses of `count` steps."""
        lr = 0.002 if self.manifest.optimizer.name == "adamw" else 0.02
        return [trainer.step(*self.batches[i % len(self.batches)], lr).loss for i in range(count)]


@functools.cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="espalier-trainer-")


@functools.cache
def _case(engine: str, model: str, optimizer: str) -> Case:
    graph = build_model(model, SHAPES[model], CLASSES, seed=3)
    folder = Path(_scratch().name) / engine / model / optimizer.replace(" ", "-")
    spec = ArtifactSpec(
        name=model,
        input=InputSpec(shape=SHAPES[model]),
        class_count=CLASSES,
        loss="cross_entropy",
        optimizer=choose_optimizer(**OPTIMIZERS[optimizer]),
    )
    manifest = writer_of(engine)(graph, spec, folder)
    supports = {
        p.name: Support.from_mask(Draws(1, "mask", p.name).uniform(int(np.prod(p.shape))).reshape(p.shape) < 0.4)
        if p.prunable
        else Support.everything(p.shape)
        for p in manifest.parameters
    }
    batches = []
    for number, size in enumerate((16, 16, 7)):
        draws = Draws(2, "batch", number)
        y = draws.below(size, CLASSES)
        x = draws.normal(size * int(np.prod(SHAPES[model]))).reshape(size, *SHAPES[model]) + y.reshape(
            -1, *[1] * len(SHAPES[model])
        )
        batches.append((x.astype(np.float32), y))
    return Case(engine, folder, manifest, cut(initial_params(graph), supports), batches)


@pytest.fixture(params=available_engines())
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that can run here."""
    return str(request.param)


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> str:
    """Each kind of network."""
    return str(request.param)


@pytest.fixture(params=OPTIMIZERS)
def case(request: pytest.FixtureRequest, engine: str, model: str) -> Case:
    """Each engine, model and optimizer."""
    return _case(engine, model, request.param)


@pytest.fixture
def plain(engine: str, model: str) -> Case:
    """Each engine and model, with momentum."""
    return _case(engine, model, "momentum")


def _bits(trainer: Trainer) -> Bits:
    return {name: kept.values.tobytes() for name, kept in trainer.kept().items()}


def _dense(trainer: Any) -> dict[str, np.ndarray]:
    """The engine's own buffers, pruned places included."""
    views = {
        "OrtTrainer": lambda: trainer._values,
        "PortableTrainer": lambda: trainer._sets[trainer._now].views,
        "SparseTrainer": lambda: {n: k.dense() for n, k in trainer.kept().items()},
    }  # fmt: skip
    return dict(views[type(trainer).__name__]())


def test_pruned_weights_stay_positive_zero_bit_for_bit(case: Case) -> None:
    trainer = case.open()
    losses = case.run(trainer, 50)
    assert np.isfinite(losses).all()
    dense = _dense(trainer)
    for name in case.manifest.prunable:
        pruned = dense[name][~case.kept[name].support.dense_mask()]
        assert pruned.size > 0
        assert not pruned.view(np.uint32).any(), name


def test_training_lowers_the_loss_and_moves_every_trained_tensor(case: Case) -> None:
    trainer = case.open()
    before = trainer.kept()
    losses = case.run(trainer, 30)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    after = trainer.kept()
    unmoved = [p.name for p in case.manifest.parameters if np.array_equal(before[p.name].values, after[p.name].values)]
    assert unmoved == []


def test_reset_of_the_optimizer_makes_the_same_steps_again(case: Case) -> None:
    trainer = case.open()
    case.run(trainer, 5)
    first = _bits(trainer)
    trainer.load(case.kept, reset_optimizer=True)
    case.run(trainer, 5)
    assert _bits(trainer) == first


def test_optimizer_state_is_kept_where_no_reset_is_asked_for(engine: str) -> None:
    case = _case(engine, "mlp", "momentum")
    trainer = case.open()
    case.run(trainer, 5)
    first = _bits(trainer)
    trainer.load(case.kept, reset_optimizer=False)
    case.run(trainer, 5)
    assert _bits(trainer) != first


def test_two_trainers_of_one_seed_give_the_same_bits(plain: Case) -> None:
    trainers = [plain.open(seed=4), plain.open(seed=4)]
    assert plain.run(trainers[0], 5) == plain.run(trainers[1], 5)
    assert _bits(trainers[0]) == _bits(trainers[1])


def test_kept_gives_back_what_was_loaded_on_the_same_supports(plain: Case) -> None:
    kept = plain.open().kept()
    assert list(kept) == [p.name for p in plain.manifest.parameters]
    for name, received in plain.kept.items():
        assert kept[name].support == received.support
        assert kept[name].values.tobytes() == received.values.tobytes()


def test_kept_is_a_copy(plain: Case) -> None:
    trainer = plain.open()
    before = trainer.kept()
    bits = {n: k.values.tobytes() for n, k in before.items()}
    plain.run(trainer, 2)
    assert {n: k.values.tobytes() for n, k in before.items()} == bits


def test_evaluation_changes_nothing_and_counts_correct_samples(plain: Case) -> None:
    trainer = plain.open()
    before = _bits(trainer)
    x, y = plain.batches[0]
    stats = [trainer.evaluate(x, y) for _ in range(2)]
    assert stats[0] == stats[1]
    assert stats[0].sample_count == len(x)
    assert stats[0].correct_count is not None
    assert 0 <= stats[0].correct_count <= len(x)
    assert _bits(trainer) == before


def test_evaluation_between_steps_does_not_disturb_them(plain: Case) -> None:
    quiet, watched = plain.open(), plain.open()
    for batch in plain.batches:
        quiet.step(*batch, 0.01)
        watched.step(*batch, 0.01)
        watched.evaluate(*plain.batches[0])
    assert _bits(quiet) == _bits(watched)


def test_learning_rate_zero_moves_no_weight(engine: str) -> None:
    case = _case(engine, "mlp", "momentum")
    trainer = case.open()
    before = _bits(trainer)
    trainer.step(*case.batches[0], 0.0)
    assert _bits(trainer) == before


def test_new_masks_replace_the_old(engine: str) -> None:
    case = _case(engine, "mlp", "momentum")
    trainer = case.open()
    case.run(trainer, 3)
    name = case.manifest.prunable[0]
    shape = case.kept[name].support.shape
    other = Kept.of(np.full(shape, 0.1, np.float32), Support.from_mask(~case.kept[name].support.dense_mask()))
    trainer.load({**case.kept, name: other}, reset_optimizer=True)
    case.run(trainer, 3)
    assert trainer.kept()[name].support == other.support
    assert not _dense(trainer)[name][~other.support.dense_mask()].view(np.uint32).any()


def test_running_statistics_move_and_variances_stay_positive(engine: str) -> None:
    case = _case(engine, "resnet8", "momentum")
    trainer = case.open()
    case.run(trainer, 10)
    after = trainer.kept()
    statistics = [p.name for p in case.manifest.parameters if p.role == "statistic"]
    assert statistics
    for name in statistics:
        assert not np.array_equal(after[name].values, case.kept[name].values), name
    variances = [n for n in statistics if (case.kept[n].values == 1).all()]
    assert variances
    assert all((after[n].values >= 0).all() for n in variances)


Wrong = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
WRONG_BATCHES: dict[str, Wrong] = {
    "too few axes": lambda x, y: (x.reshape(len(x), -1)[:, :-1], y),
    "another width": lambda x, y: (x[..., :-1], y),
    "more samples than labels": lambda x, y: (x, y[:-1]),
    "more labels than samples": lambda x, y: (x[:-1], y),
    "labels of floats": lambda x, y: (x, y.astype(np.float32)),
    "samples of doubles": lambda x, y: (x.astype(np.float64), y),
}


@pytest.mark.parametrize("wrong", WRONG_BATCHES.values(), ids=WRONG_BATCHES.keys())
@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_batch_that_does_not_fit_is_refused_and_the_trainer_goes_on(engine: str, name: str, wrong: Wrong) -> None:
    case = _case(engine, name, "sgd")
    trainer = case.open()
    before = _bits(trainer)
    for call in (lambda b: trainer.step(*b, 0.01), lambda b: trainer.evaluate(*b)):
        with pytest.raises(EngineError):
            call(wrong(*case.batches[0]))
    assert _bits(trainer) == before
    assert np.isfinite(case.run(trainer, 1)).all()


def test_parameters_that_do_not_fit_are_refused(engine: str) -> None:
    case = _case(engine, "mlp", "sgd")
    trainer = case.open()
    name = case.manifest.prunable[0]
    lacking = {n: k for n, k in case.kept.items() if n != name}
    with pytest.raises(EngineError, match="got nothing"):
        trainer.load(lacking, reset_optimizer=True)
    with pytest.raises(EngineError, match=r"got shape \(2, 2\)"):
        trainer.load(
            {**case.kept, name: Kept.of(np.zeros((2, 2), np.float32), Support.everything((2, 2)))}, reset_optimizer=True
        )


def test_artifact_of_another_engine_or_damaged_is_refused(engine: str, tmp_path: Path) -> None:
    case = _case(engine, "mlp", "sgd")
    for other in available_engines():
        if other != engine:
            with pytest.raises(EngineError, match="is for engine"):
                open_engine(other).open(case.artifact, threads=1, seed=0)
    for path in case.artifact.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() if path.suffix == ".json" else b"no graph")
    with pytest.raises(EngineError, match="cannot open"):
        open_engine(engine).open(tmp_path, threads=1, seed=0)


@pytest.mark.parametrize("engine", available_engines())
def test_memory_does_not_grow_over_two_thousand_steps(engine: str) -> None:
    case = _case(engine, "lenet5", "momentum")
    trainer = case.open()
    case.run(trainer, 200)
    before = rss_bytes()
    case.run(trainer, 2000)
    assert before is not None
    assert (rss_bytes() or 0) - before < 2_000_000


@pytest.mark.parametrize("engine", available_engines())
def test_training_leaves_the_floating_point_mode_of_its_thread_alone(engine: str) -> None:
    tiny = np.full(4, 1e-40, dtype=np.float32)
    case = _case(engine, "mlp", "sgd")
    case.run(case.open(), 3)
    assert (tiny * np.float32(0.5)).all()
