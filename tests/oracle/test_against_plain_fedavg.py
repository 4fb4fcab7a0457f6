"""Nothing pruned, weighted by samples, plain SGD: the federation is federated averaging, as torch computes it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from aggregator.core.pruning import Pruning
from aggregator.core.weighting import Samples
from aggregator.settings import (
    ModelSection,
    RoundsSection,
    RunSection,
    Settings,
    TrainingSection,
)
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData
from device_runtime.engines import available_engines
from device_runtime.wire.draws import Draws
from device_runtime.wire.manifest import InputSpec
from export.forward.parameters import initial_params
from export.models.zoo import build_model

pytestmark = pytest.mark.torch

ROUNDS, EPOCHS, BATCH, LEARNING_RATE, SEED, CLASSES = 3, 2, 16, 0.05, 11, 5
SIDES = {"mlp": 8, "lenet5": 16}
SAMPLES = {"a": 70, "b": 41, "c": 55}


@pytest.fixture(scope="module")
def torch_python() -> str:
    """The interpreter of the environment that holds torch."""
    found = os.environ.get("ESPALIER_TORCH_PYTHON") or str(Path(__file__).parents[2] / ".venv-torch/bin/python")
    if not Path(found).is_file():
        pytest.skip(f"no torch environment: {found} does not exist (set ESPALIER_TORCH_PYTHON)")
    return found


def _data(side: int) -> dict[str, LocalData]:
    made = {}
    for name, count in SAMPLES.items():
        draws = Draws(SEED, "test data", name)
        y = draws.below(count, CLASSES)
        x = (draws.below(count * side * side, 128).reshape(count, side, side) + 25 * y[:, None, None]).astype(np.uint8)
        made[name] = LocalData(x, y, name)
    return made


def _oracle(python: str, model: str, devices: dict[str, LocalData], folder: Path) -> dict[str, np.ndarray]:
    side = SIDES[model]
    arrays = {f"param/{n}": p for n, p in initial_params(build_model(model, (1, side, side), CLASSES, SEED)).items()}
    for name, data in devices.items():
        arrays |= {f"x/{name}": data.x, f"y/{name}": data.y}
    plan = {
        "model": model, "devices": sorted(devices), "classes": CLASSES, "rounds": ROUNDS, "epochs": EPOCHS,
        "batch": BATCH, "lr": LEARNING_RATE, "seed": SEED,
    }  # fmt: skip
    np.savez(folder / "in.npz", plan=json.dumps(plan), **arrays)
    script = Path(__file__).with_name("plain_fedavg.py")
    subprocess.run([python, script, folder / "in.npz", folder / "out.npz"], check=True, timeout=120)
    with np.load(folder / "out.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize("model", SIDES)
def test_federation_without_pruning_is_federated_averaging(
    tmp_path: Path, torch_python: str, model: str, engine: str
) -> None:
    side = SIDES[model]
    devices = _data(side)
    settings = Settings(
        run=RunSection(folder=str(tmp_path), seed=SEED),
        input=InputSpec(shape=(1, side, side), axes=(0, 1, 2), scale=1 / 255, mean=(0.5,), std=(0.25,)),
        model=ModelSection(name=model, classes=CLASSES),
        training=TrainingSection(
            momentum=0.0, learning_rate=LEARNING_RATE, batch_size=BATCH, local_epochs=EPOCHS, update_dtype="fp32"
        ),
        pruning=Pruning(sparsity=0.0),
        weighting=Samples(),
        rounds=RoundsSection(count=ROUNDS),
    )
    found = run_in_process(settings, devices, tmp_path / "run", engine).state.model.theta
    expected = _oracle(torch_python, model, devices, tmp_path)
    assert found.keys() == expected.keys()
    initial = initial_params(build_model(model, (1, side, side), CLASSES, SEED))
    for name, value in expected.items():
        assert np.abs(value - initial[name]).max() > 1e-3, f"{name} was trained"
        np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=0, err_msg=name)
