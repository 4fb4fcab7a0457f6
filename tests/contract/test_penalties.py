"""The proximal term and clipping, from a settings file to a device's step: by hand, and engines that cannot."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.federation import Federation
from aggregator.settings import ModelSection, RunSection, Settings, TrainingSection
from device_runtime.engines import Trainer, available_engines, open_engine
from device_runtime.wire.errors import EngineError, UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.support import FloatArray, Support, cut

LR = 0.25
PLAIN = TrainingSection(optimizer="sgd", momentum=0.0)
BOTH = ("ort_training", "portable")
Params = dict[str, FloatArray]


def federation(folder: Path, **training: float) -> Federation:
    """A pruned mlp of a run with these settings of training."""
    settings = Settings(
        run=RunSection(folder=str(folder)), input=InputSpec(shape=(6,)), model=ModelSection(classes=3),
        training=msgspec.structs.replace(PLAIN, **training),
    )  # fmt: skip
    return Federation(settings, folder)


def stepped(folder: Path, steps: int, **training: float) -> list[Params]:
    """The parameters a device of the run starts from, and after each of its steps of one batch."""
    run = federation(folder, **training)
    name, _ = run.artifacts.for_engines(["portable"])
    trainer: Trainer = open_engine(name).open(run.artifacts.folder(name), threads=1, seed=0)
    model = run.start().model
    supports = {name: Support.from_mask(mask) for name, mask in model.masks.items()}
    trainer.load(cut(model.theta, supports), reset_optimizer=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)
    seen = [{n: k.dense() for n, k in trainer.kept().items()}]
    for _ in range(steps):
        trainer.step(x, y, LR)
        seen.append({n: k.dense() for n, k in trainer.kept().items()})
    return seen


def test_the_proximal_term_pulls_towards_the_received_values_by_mu_times_the_way(tmp_path: Path) -> None:
    """w2 = w1 - lr (g(w1) + mu (w1 - w0)): what a plain step gives from w1, less lr mu (w1 - w0)."""
    plain = stepped(tmp_path / "plain", 2)
    pulled = stepped(tmp_path / "pulled", 2, proximal_mu=0.5)
    for name, w0 in plain[0].items():
        assert pulled[1][name].tobytes() == plain[1][name].tobytes(), "at the received values the term is zero"
        by_hand = plain[2][name] - LR * 0.5 * (plain[1][name] - w0)
        np.testing.assert_allclose(pulled[2][name], by_hand, atol=1e-7)
    assert any(pulled[2][name].tobytes() != plain[2][name].tobytes() for name in plain[2])


def test_clipping_scales_the_gradient_of_all_parameters_to_the_norm_allowed(tmp_path: Path) -> None:
    plain, clipped = stepped(tmp_path / "plain", 1), stepped(tmp_path / "clipped", 1, clip_norm=0.125)
    gradient = {n: (w0 - plain[1][n]) / LR for n, w0 in plain[0].items()}
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values()))
    assert norm > 0.125
    for name, w0 in plain[0].items():
        np.testing.assert_allclose(clipped[1][name], w0 - LR * 0.125 / norm * gradient[name], atol=1e-6)


def test_a_norm_that_is_never_reached_and_mu_of_zero_change_no_bit(tmp_path: Path) -> None:
    plain, wide = stepped(tmp_path / "plain", 3), stepped(tmp_path / "wide", 3, clip_norm=1e6, proximal_mu=0.0)
    assert all(wide[3][name].tobytes() == w.tobytes() for name, w in plain[3].items())


@pytest.mark.skipif(not set(BOTH) <= set(available_engines()), reason="needs the training wheel")
@pytest.mark.parametrize(
    ("training", "says"), [({"proximal_mu": 0.01}, "no proximal_mu 0.01"), ({"clip_norm": 1.0}, "no clip_norm 1")]
)
def test_a_device_of_both_engines_gets_portable_and_one_that_cannot_is_told(tmp_path: Path, training, says) -> None:
    assert federation(tmp_path / "plain").artifacts.for_engines(BOTH)[0] == "ort_training"
    artifacts = federation(tmp_path / "asked", **training).artifacts
    assert artifacts.for_engines(BOTH)[0] == "portable"
    with pytest.raises(EngineError, match=says):
        artifacts.for_engines(["ort_training"])


@pytest.mark.parametrize("training", [{"proximal_mu": -0.1}, {"clip_norm": float("nan")}])
def test_values_out_of_range_are_refused_before_a_run_begins(tmp_path: Path, training) -> None:
    with pytest.raises(UsageError, match=next(iter(training))):
        federation(tmp_path, **training)
