"""Every zoo model's gradients and loss curve are those of onnxruntime-training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.wire.manifest import InputSpec
from export.artifacts.ort_training import write_training_artifact
from export.artifacts.spec import ArtifactSpec
from export.forward.parameters import initial_params, parameter_table
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests.unit.export.conftest import INPUT_SHAPES, SMALL_MODELS, BareSession

_BINDINGS = pytest.importorskip("onnxruntime.capi._pybind_state")
pytestmark = pytest.mark.skipif(not hasattr(_BINDINGS, "Module"), reason="onnxruntime-training is not installed")


def _official(name: str, folder: Path, masks: dict[str, np.ndarray]) -> BareSession:
    model = build_model(name, INPUT_SHAPES[name], 10, seed=1)
    spec = ArtifactSpec(
        name=name, input=InputSpec(shape=INPUT_SHAPES[name]), class_count=10, loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
    )  # fmt: skip
    write_training_artifact(model, spec, folder)
    params = {k: np.where(masks[k], v, 0) if k in masks else v for k, v in initial_params(model).items()}
    return BareSession(folder, params, {k: v.astype(np.float32) for k, v in masks.items()})


def _masks(name: str, density: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    table = parameter_table(build_model(name, INPUT_SHAPES[name], 10, seed=1))
    return {p.name: rng.random(p.shape) < density for p in table if p.prunable}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_gradients_are_the_official_ones(name: str, tmp_path: Path, stepper: Callable[..., Any]) -> None:
    masks = _masks(name, 0.7)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, *INPUT_SHAPES[name])).astype(np.float32), rng.integers(0, 10, 8)
    official = _official(name, tmp_path / "official", masks)
    loss, _ = official.train_step(x, y)
    # The first momentum is the gradient itself.
    ours = stepper(build_model(name, INPUT_SHAPES[name], 10, seed=1), choose_optimizer("sgd", momentum=0.9), masks)
    results = ours.run(x, y, 0.1)
    assert results["loss"] == pytest.approx(loss, rel=1e-5)
    for p in ours.step.parameters:
        if p.role == "statistic":
            np.testing.assert_allclose(results[f"{p.name}.next"], official.values[p.name], atol=1e-5, err_msg=p.name)
    gradients = official.gradients()
    assert {f"{k}.momentum" for k in gradients} == {s.name for s in ours.step.states}
    for key, expected in gradients.items():
        found = results[f"{key}.momentum.next"]
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)
        assert error <= 1e-4, (key, error)
        if key in masks:
            assert not found[~masks[key]].any()
            following = results[f"{key}.next"][~masks[key]]
            assert not following.any()
            assert not np.signbit(following).any()


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_fifty_steps_track_the_official_loss(name: str, tmp_path: Path, stepper: Callable[..., Any]) -> None:
    official = _official(name, tmp_path / "official", {})
    ours = stepper(build_model(name, INPUT_SHAPES[name], 10, seed=1), choose_optimizer("sgd"))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, *INPUT_SHAPES[name])).astype(np.float32)
    y = rng.integers(0, 10, 64)
    for step in range(50):
        batch = rng.permutation(64)[:8]
        expected, _ = official.train_step(x[batch], y[batch])
        official.optimizer_step(0.003)
        found = ours.run(x[batch], y[batch], 0.003)["loss"]
        assert abs(found - expected) <= 1e-3 * max(1.0, expected), (step, found, expected)


@pytest.mark.parametrize("loss", ["mse", "l1", "bce_with_logits"])
def test_the_official_losses_are_ours(loss: Any, artifact: Callable[..., Any], stepper: Callable[..., Any]) -> None:
    model = build_model("mlp", (1, 8, 8), 4, seed=1)
    folder, _ = artifact(model, loss=loss)
    official = BareSession(folder, initial_params(model), {})
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 1, 8, 8)).astype(np.float32), rng.random((6, 4)).astype(np.float32)
    expected, _ = official.train_step(x, y)
    results = stepper(model, choose_optimizer("sgd", momentum=0.9), loss=loss).run(x, y, 0.1)
    assert results["loss"] == pytest.approx(expected, rel=1e-5)
    for key, gradient in official.gradients().items():
        np.testing.assert_allclose(results[f"{key}.momentum.next"], gradient, atol=1e-5, err_msg=key)
