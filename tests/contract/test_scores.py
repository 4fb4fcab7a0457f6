"""What `Trainer.scores` and `remask` promise of every engine: the dense gradient, nothing changed; new masks."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from device_runtime.engines import Trainer, available_engines, open_engine
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import InputSpec, Manifest, mask_name
from device_runtime.wire.support import FloatArray, Kept, Support, cut
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.modes import training_form
from export.forward.parameters import initial_params
from export.forward.values import parameterised_forward
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests.unit.export.gradients.double_kernels import KERNELS

CLASSES = 5
SHAPES = {"mlp": (1, 8, 8), "lenet5": (1, 16, 16), "resnet8": (3, 8, 8), "cnn1d": (6, 16)}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "momentum": {"name": "sgd", "momentum": 0.9},
    "nesterov": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    "adamw": {"name": "adamw", "weight_decay": 1e-2},
    "penalties": {"name": "sgd", "momentum": 0.9, "proximal_mu": 0.5, "clip_norm": 0.1},
}
LR = 0.02


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its artifact with scores, and initial parameters cut to random masks."""

    engine: str
    model: ModelProto
    artifact: Path
    manifest: Manifest
    kept: dict[str, Kept]

    def open(self) -> Trainer:
        """A trainer that has loaded the initial parameters."""
        trainer = open_engine(self.engine).open(self.artifact, threads=1, seed=1)
        trainer.load(self.kept, reset_optimizer=True)
        return trainer

    def batch(self, number: int, size: int = 7) -> tuple[np.ndarray, np.ndarray]:
        """Samples and labels."""
        draws, shape = Draws(2, "batch", number), self.manifest.input.shape
        x = draws.normal(size * int(np.prod(shape))).reshape(size, *shape).astype(np.float32)
        return x, draws.below(size, CLASSES)


@functools.cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="espalier-scores-")


@functools.cache
def _case(engine: str, model: str, optimizer: str, scores: bool = True, **options: Any) -> Case:
    graph = build_model(model, SHAPES[model], CLASSES, seed=3, **options)
    folder = Path(_scratch().name) / engine / f"{model}-{optimizer}-{scores}-{len(options)}"
    spec = ArtifactSpec(
        name=model, input=InputSpec(shape=SHAPES[model]), class_count=CLASSES, loss="cross_entropy",
        optimizer=choose_optimizer(**OPTIMIZERS[optimizer]), scores=scores,
    )  # fmt: skip
    manifest = writer_of(engine)(graph, spec, folder)
    supports = {p.name: _random(p.name, p.shape, 0.4) for p in manifest.parameters if p.prunable}
    return Case(engine, graph, folder, manifest, cut(initial_params(graph), supports))


def _random(name: str, shape: tuple[int, ...], density: float, seed: int = 1) -> Support:
    return Support.from_mask(Draws(seed, "mask", name).uniform(int(np.prod(shape))).reshape(shape) < density)


@pytest.fixture(params=available_engines())
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that can run here."""
    return str(request.param)


# AdamW with moving masks and penalties are refused by the writer of engine ort_training, see below.
TRAINED = [
    (engine, optimizer)
    for engine in available_engines()
    for optimizer in OPTIMIZERS
    if engine != "ort_training" or optimizer not in ("adamw", "penalties")
]


@pytest.fixture(params=TRAINED, ids="-".join)
def mlp(request: pytest.FixtureRequest) -> Case:
    """Each engine with each optimizer that it can train with moving masks."""
    return _case(request.param[0], "mlp", request.param[1])


def _dense(trainer: Any) -> dict[str, np.ndarray]:
    """Everything an engine holds: parameters, masks, and the optimizer's state; copies."""
    views = {
        "OrtTrainer": lambda: {
            **trainer._values,
            **{f"{n}.momentum": v for n, v in getattr(trainer._host_optimizer, "_velocity", {}).items()},
        },
        "PortableTrainer": lambda: {**trainer._sets[trainer._now].views, **trainer._fixed.views},
        "SparseTrainer": lambda: {
            **trainer._parameters(),
            **trainer._states(),
            **{mask_name(p): trainer._supports[p].dense_mask() for p in trainer.manifest.prunable},
        },
    }  # fmt: skip
    return {name: view.copy() for name, view in views[type(trainer).__name__]().items()}


def _params(trainer: Trainer) -> dict[str, FloatArray]:
    return {name: kept.dense() for name, kept in trainer.kept().items()}


# --- scores --------------------------------------------------------------------------------------------------------


def _mlp_gradients(params: dict[str, FloatArray], x: FloatArray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of the mean cross-entropy of a net with one hidden layer, by hand, in double precision."""
    w1, b1, w2, b2 = (params[n].astype(np.float64) for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    flat = x.reshape(len(x), -1).astype(np.float64)
    hidden = np.maximum(flat @ w1.T + b1, 0)
    z = hidden @ w2.T + b2
    p = np.exp(z - z.max(1, keepdims=True))
    dz = (p / p.sum(1, keepdims=True) - np.eye(z.shape[1])[y]) / len(x)
    return {"fc2.weight": dz.T @ hidden, "fc1.weight": ((dz @ w2) * (hidden > 0)).T @ flat}


def test_scores_are_the_gradients_magnitude_on_and_off_the_mask_by_hand(engine: str) -> None:
    case = _case(engine, "mlp", "momentum", hidden=(6,))
    trainer = case.open()
    for number in range(3):
        trainer.step(*case.batch(number), LR)
    x, y = case.batch(9)
    expected = _mlp_gradients(_params(trainer), x, y)
    found = trainer.scores(x, y)
    assert list(found) == ["fc1.weight", "fc2.weight"]
    for name, gradient in expected.items():
        assert (found[name].dtype, found[name].shape) == (np.dtype(np.float32), gradient.shape)
        np.testing.assert_allclose(found[name], np.abs(gradient), atol=2e-6)
        off = ~case.kept[name].support.dense_mask()
        assert np.count_nonzero(found[name][off]) > 0.5 * np.count_nonzero(off)


@pytest.mark.parametrize("model", SHAPES)
def test_scores_are_central_differences_in_double_precision(engine: str, model: str) -> None:
    """Of the loss in training form: batch normalisations take the moments of the batch."""
    case = _case(engine, model, "momentum")
    trainer = case.open()
    trainer.step(*case.batch(0), LR)
    x, y = case.batch(1)
    form = training_form(ModelProto.FromString(parameterised_forward(case.model)))
    run = ReferenceEvaluator(form, new_ops=KERNELS)
    values = {name: v.astype(np.float64) for name, v in _params(trainer).items()}

    def loss(name: str, place: tuple[int, ...], change: float) -> float:
        moved = values[name].copy()
        moved[place] += change
        z = run.run(["output"], {"input": x.astype(np.float64), **values, name: moved})[0]
        return float(np.mean(np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[range(len(y)), y]))

    scores, draws = trainer.scores(x, y), Draws(5, "places", model)
    for name in case.manifest.prunable:
        mask = case.kept[name].support.dense_mask()
        for places in (np.argwhere(mask), np.argwhere(~mask)):
            for chosen in draws.below(2, len(places)):
                place = tuple(places[chosen])
                slope = (loss(name, place, 1e-6) - loss(name, place, -1e-6)) / 2e-6
                assert scores[name][place] == pytest.approx(abs(slope), abs=2e-6, rel=2e-3), (name, place)


def test_scores_change_nothing_that_training_depends_on(mlp: Case) -> None:
    quiet, asked = mlp.open(), mlp.open()
    for number in range(4):
        x, y = mlp.batch(number)
        quiet.step(x, y, LR)
        before = {n: v.tobytes() for n, v in _dense(asked).items() if n not in ("loss", "correct")}
        first, again = asked.scores(*mlp.batch(9, size=5)), asked.scores(*mlp.batch(9, size=5))
        assert {n: v.tobytes() for n, v in first.items()} == {n: v.tobytes() for n, v in again.items()}
        assert {n: v.tobytes() for n, v in _dense(asked).items() if n not in ("loss", "correct")} == before
        asked.step(x, y, LR)
    assert {n: v.tobytes() for n, v in _params(asked).items()} == {n: v.tobytes() for n, v in _params(quiet).items()}


def test_running_statistics_stay_to_the_bit(engine: str) -> None:
    case = _case(engine, "resnet8", "momentum")
    trainer = case.open()
    trainer.step(*case.batch(0), LR)
    before = _params(trainer)
    trainer.scores(*case.batch(1))
    assert {n: v.tobytes() for n, v in _params(trainer).items()} == {n: v.tobytes() for n, v in before.items()}
    trainer.step(*case.batch(2), LR)
    other = case.open()
    other.step(*case.batch(0), LR)
    other.step(*case.batch(2), LR)
    assert {n: v.tobytes() for n, v in _params(trainer).items()} == {n: v.tobytes() for n, v in _params(other).items()}


def test_penalties_are_no_part_of_scores() -> None:
    """Neither pulled towards the received values nor clipped: the same scores as of the plain optimizer."""
    plain, penalised = _case("portable", "mlp", "momentum"), _case("portable", "mlp", "penalties")
    trainers = plain.open(), penalised.open()
    trainers[1].step(*penalised.batch(0), LR)
    moved = trainers[1].kept()
    trainers[0].load(moved, reset_optimizer=True)
    one, other = (t.scores(*plain.batch(1)) for t in trainers)
    assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in other.items()}


def test_a_batch_that_does_not_fit_is_refused_and_the_trainer_goes_on(mlp: Case) -> None:
    trainer, quiet = mlp.open(), mlp.open()
    x, y = mlp.batch(0)
    for wrong in ((x[..., :-1], y), (x.astype(np.float64), y), (x, y[:-1])):
        with pytest.raises(EngineError, match="does not fit"):
            trainer.scores(*wrong)
    for t in (trainer, quiet):
        t.step(x, y, LR)
    assert {n: v.tobytes() for n, v in _params(trainer).items()} == {n: v.tobytes() for n, v in _params(quiet).items()}


def test_engines_agree_on_scores() -> None:
    if "ort_training" not in available_engines():
        pytest.skip("needs the training wheel")
    cases = [_case(e, "lenet5", "momentum") for e in ("ort_training", "portable")]
    one, other = (case.open().scores(*case.batch(0)) for case in cases)
    for name, scores in one.items():
        np.testing.assert_allclose(other[name], scores, atol=1e-6)


def test_artifacts_without_scores_have_the_bytes_they_had_and_those_with_them_a_file_more() -> None:
    plain, asked = _case("portable", "mlp", "momentum", scores=False), _case("portable", "mlp", "momentum")
    assert [f.name for f in plain.manifest.files] == ["eval.onnx", "train_step.onnx"]
    assert [f for f in asked.manifest.files if f.name != "scores.onnx"] == list(plain.manifest.files)
    with pytest.raises(EngineError, match="made without scores"):
        plain.open().scores(*plain.batch(0))


@pytest.mark.skipif("ort_training" not in available_engines(), reason="needs the training wheel")
def test_adamw_with_moving_masks_is_refused_by_the_engine_that_cannot_reach_its_state() -> None:
    with pytest.raises(EngineError, match="cannot begin AdamW anew for single weights"):
        _case("ort_training", "mlp", "adamw")
    with pytest.raises(EngineError, match="train with portable"):
        _case("ort_training", "mlp", "adamw", scores=False).open().remask({})


# --- remask --------------------------------------------------------------------------------------------------------


def test_remasking_zeroes_what_is_not_on_both_masks_and_leaves_the_rest(mlp: Case) -> None:
    trainer = mlp.open()
    for number in range(3):
        trainer.step(*mlp.batch(number), LR)
    before, name = _dense(trainer), "fc1.weight"
    old, new = mlp.kept[name].support.dense_mask(), _random(name, mlp.kept[name].support.shape, 0.4, seed=2)
    trainer.remask({name: new})
    after, stays = _dense(trainer), old & new.dense_mask()
    assert trainer.kept()[name].support is new
    states = [n for n in before if n.rpartition(".")[0] == name and n.rpartition(".")[2] not in ("mask", "anchor")]
    assert bool(states) == (mlp.manifest.optimizer.name == "adamw" or mlp.manifest.optimizer.momentum > 0)
    for held in (name, *states):
        assert after[held][stays].tobytes() == before[held][stays].tobytes()
        assert np.count_nonzero(before[held][old & ~stays]) > 0
        assert not after[held][~stays].view(np.uint32).any(), "positive zero"
    assert after[f"{name}.mask"].astype(bool).tolist() == new.dense_mask().tolist()
    others = [n for n in before if n not in (name, f"{name}.mask", *states)]
    assert {n: after[n].tobytes() for n in others} == {n: before[n].tobytes() for n in others}


def test_a_grown_weight_trains_from_zero_as_if_the_training_began_there(engine: str) -> None:
    """With momentum: its first step is -lr g, without velocity; a kept weight goes on with its own."""
    case = _case(engine, "mlp", "momentum", hidden=(6,))
    trainer, name = case.open(), "fc2.weight"
    trainer.step(*case.batch(0), LR)
    old = case.kept[name].support.dense_mask()
    new = Support.from_mask(np.roll(old, 1))
    w0 = trainer.kept()[name].dense()
    first = _mlp_gradients({n: k.dense() for n, k in case.kept.items()}, *case.batch(0))
    trainer.remask({name: new})
    x, y = case.batch(1)
    gradient = _mlp_gradients(_params(trainer), x, y)[name]
    trainer.step(x, y, LR)
    after = trainer.kept()[name].dense()
    grown, stays = new.dense_mask() & ~old, new.dense_mask() & old
    assert grown.any()
    np.testing.assert_allclose(after[grown], -LR * gradient[grown], atol=1e-6)
    velocity = 0.9 * first[name] + gradient
    np.testing.assert_allclose(after[stays], (w0 - LR * velocity)[stays], atol=1e-6)
    assert not after[~new.dense_mask()].any()


def test_pruned_weights_stay_zero_through_the_steps_after_a_remask(mlp: Case) -> None:
    trainer, name = mlp.open(), "fc2.weight"
    for number in range(3):
        trainer.step(*mlp.batch(number), LR)
    new = _random(name, mlp.kept[name].support.shape, 0.3, seed=4)
    trainer.remask({name: new})
    for number in range(20):
        trainer.step(*mlp.batch(number), LR)
    assert not _dense(trainer)[name][~new.dense_mask()].view(np.uint32).any()


def test_the_proximal_term_pulls_a_grown_weight_towards_zero_and_the_others_to_where_they_began() -> None:
    case = _case("portable", "mlp", "penalties")
    trainer, name = case.open(), "fc1.weight"
    trainer.step(*case.batch(0), LR)
    before = _dense(trainer)[f"{name}.anchor"]
    trainer.remask({name: Support.everything(case.kept[name].support.shape)})
    anchor = _dense(trainer)[f"{name}.anchor"]
    assert anchor.tobytes() == before.tobytes() == case.kept[name].dense().tobytes()
    assert not anchor[~case.kept[name].support.dense_mask()].any()
