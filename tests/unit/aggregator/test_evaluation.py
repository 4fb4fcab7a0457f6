"""Evaluation on held-out data, and the re-estimation of running statistics."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.evaluation import Evaluator, StatisticsEstimator
from aggregator.federation import Federation
from aggregator.settings import ModelSection, RunSection, Settings
from device_runtime.data import Samples
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from export.forward.parameters import initial_params
from export.forward.values import batch_statistics, parameterised_forward
from export.models.zoo import build_model


def samples(count: int, shape: tuple[int, ...]) -> Samples:
    rng = np.random.default_rng(3)
    x = rng.normal(1.5, 2.0, (count, *shape)).astype(np.float32)
    return Samples(x, rng.integers(0, 10, count))


def test_score_equals_a_plain_softmax_in_numpy() -> None:
    model = build_model("mlp", (1, 4, 4), 10, seed=2)
    held_out = samples(1100, (1, 4, 4))  # more than two batches
    params = initial_params(model)
    score = Evaluator(parameterised_forward(model), held_out, "cross_entropy", threads=1).score(params)
    h = held_out.x.reshape(1100, -1)
    for i in (1, 2, 3):
        h = h @ params[f"fc{i}.weight"].T + params[f"fc{i}.bias"]
        h = np.maximum(h, 0) if i < 3 else h
    p = np.exp(h - h.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert score.accuracy == np.mean(h.argmax(axis=1) == held_out.y)
    assert score.loss == pytest.approx(-np.log(p[np.arange(1100), held_out.y]).mean(), rel=1e-5)


def test_targets_that_do_not_fit_the_output_are_refused_instead_of_stretched() -> None:
    model = build_model("mlp", (4,), 1, seed=2)
    evaluator = Evaluator(
        parameterised_forward(model), Samples(np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)), "l1", threads=1
    )
    with pytest.raises(UsageError, match="2 values per sample and the model gives 1"):
        evaluator.score(model.initial)


def test_statistics_of_the_first_layer_are_those_of_its_input() -> None:
    model = build_model("resnet8", (3, 8, 8), 10, seed=2)
    params = initial_params(model)
    data = samples(1200, (3, 8, 8))
    estimated = StatisticsEstimator(batch_statistics(model), data.x, threads=1).with_statistics(params)
    ort_free = np.pad(data.x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(ort_free, (3, 3), axis=(2, 3))
    first = np.einsum("nchwij,ocij->nohw", windows, params["conv1.weight"].astype(np.float64), optimize=True)
    assert estimated["bn1.running_mean"] == pytest.approx(first.mean(axis=(0, 2, 3)), abs=1e-4)
    assert estimated["bn1.running_var"] == pytest.approx(first.var(axis=(0, 2, 3)), rel=1e-4)
    unchanged = [n for n in params if "running" not in n]
    assert all(estimated[n] is params[n] for n in unchanged)


@pytest.mark.parametrize("calibrated", [False, True])
def test_dense_accuracy_of_a_normalised_model_is_known_only_with_calibration_data(
    calibrated: bool, tmp_path: Path
) -> None:
    data = samples(60, (3, 8, 8))
    np.savez(tmp_path / "held_out.npz", x_test=data.x, y_test=data.y)
    np.savez(tmp_path / "calibration.npz", x=data.x)
    settings = Settings(
        run=RunSection(
            folder=str(tmp_path),
            held_out=str(tmp_path / "held_out.npz"),
            calibration=str(tmp_path / "calibration.npz") if calibrated else "",
        ),
        input=InputSpec(shape=(3, 8, 8)),
        model=ModelSection(name="resnet8"),
    )
    federation = Federation(settings, tmp_path)
    evaluation = federation.model.evaluate(federation.start().model)
    assert (evaluation.dense is not None) is calibrated
    assert evaluation.sparse is not None


def test_held_out_file_without_the_arrays_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "held_out.npz", x=np.zeros((2, 3)))
    settings = Settings(
        run=RunSection(folder=str(tmp_path), held_out=str(tmp_path / "held_out.npz")), input=InputSpec(shape=(1, 8, 8))
    )
    with pytest.raises(UsageError, match="no array 'x_test'; it has: x"):
        Federation(settings, tmp_path)
