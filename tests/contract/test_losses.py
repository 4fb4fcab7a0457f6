"""A held-out loss is the loss that devices minimise: the aggregator's figure equals the engines' own, for each."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from aggregator.evaluation import Evaluator
from device_runtime.data import Samples
from device_runtime.engines import available_engines, open_engine
from device_runtime.wire.manifest import InputSpec, Loss
from device_runtime.wire.support import Support, cut
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.values import parameterised_forward
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

CLASSES = 3


@pytest.mark.parametrize("loss", get_args(Loss))
@pytest.mark.parametrize("engine", available_engines())
def test_the_aggregators_held_out_loss_is_the_engines(engine: str, loss: Loss, tmp_path: Path) -> None:
    model = build_model("mlp", (6,), CLASSES, seed=4)
    spec = ArtifactSpec(
        name="mlp", input=InputSpec(shape=(6,)), class_count=CLASSES, loss=loss, optimizer=choose_optimizer("sgd")
    )
    manifest = writer_of(engine)(model, spec, tmp_path / "artifact")
    trainer = open_engine(engine).open(tmp_path / "artifact", threads=1, seed=0)
    everything = {p.name: Support.everything(p.shape) for p in manifest.parameters}
    trainer.load(cut(model.initial, everything), reset_optimizer=True)
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (64, 6)).astype(np.float32)
    y = rng.integers(0, CLASSES, 64) if loss == "cross_entropy" else rng.random((64, CLASSES)).astype(np.float32)
    seen = trainer.evaluate(x, y)
    score = Evaluator(parameterised_forward(model), Samples(x, y), loss, threads=1).score(model.initial)
    assert score.loss == pytest.approx(seen.loss, rel=2e-6)
    assert (score.accuracy is None) == (seen.correct_count is None)
    if seen.correct_count is not None:
        assert score.accuracy == seen.correct_count / 64
