"""Federations of which some processes run on an emulated board."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.demo.plan import Options
from aggregator.settings import ModelSection, TrainingSection
from device_runtime.wire.draws import Draws
from tests.arm.board import Board
from tests.e2e.harness import Fleet

DEVICE = "device-01"
# One epoch: in a fourth step this data meets a ReLU within rounding of its kink, and then starts that differ by 1e-7
# end 1.9e-4 apart on one and the same machine, which says nothing of the CPU.
SAMPLES, TEST_SAMPLES, BATCH, EPOCHS = 72, 30, 32, 1  # three batches an epoch, the last one of eight samples
ROUND_TIMEOUT_S = 150.0


@dataclass(frozen=True)
class On:
    """Where a process runs: a board with a CPU model."""

    board: Board
    cpu: str


def write_pictures(path: Path, side: int = 28, samples: int = SAMPLES) -> Path:
    """Pictures of `side` x `side` in three classes, each with a bright band of its own, in noise."""
    count, band = samples + TEST_SAMPLES, side // 3
    x = Draws(7, "pictures").uniform(count * side * side).reshape(count, side, side).astype(np.float32)
    y = np.arange(count) % 3
    for picture, label in zip(x, y, strict=True):
        picture[band * label : band * (label + 1), :band] += 1
    np.savez(path, x_train=x[:samples], y_train=y[:samples], x_test=x[samples:], y_test=y[samples:])
    return path


def one_round(data: Path, engine: str, model: str = "lenet5") -> Options:
    """One device, one round at 80 % sparsity; the update travels exactly."""
    training = TrainingSection(batch_size=BATCH, local_epochs=EPOCHS, update_dtype="fp32")
    return Options(
        rounds=1, devices=1, data=str(data), layout="hw", partition="iid", noise="none", engine=engine, seed=11,
        model=ModelSection(name=model), tables={"training": training}, deadline_s=ROUND_TIMEOUT_S,
    )  # fmt: skip


def start_on(on: On | None, run: Fleet, name: str) -> None:
    """Start a process of the fleet on a board, or here."""
    if on is None:
        run.start(name)
        return
    if name == "aggregator":
        arguments = ("aggregator", "run", "--json", "--config", run.folder / "aggregator.toml")
    else:
        arguments = ("device", "run", "--config", run.folder / "devices" / name / "device.toml")
    line = on.board.command(on.cpu, "-m", "device_runtime", *arguments)
    output = run.folder / "output"
    with open(output / f"{name}.out", "ab") as out, open(output / f"{name}.err", "ab") as err:
        run.running[name] = subprocess.Popen(
            line, env=on.board.environment, cwd=on.board.home, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
