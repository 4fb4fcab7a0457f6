"""A third engine for tests, written as a stranger would: one module, and a distribution that brings its entry point.

It trains by shrinking every weight towards zero, whatever the data. Nothing else in this repository knows its name.
"""

from pathlib import Path

import pytest

MODULE = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime.engines.interface import StepStats, manifest_for
from device_runtime.engines.kind import EngineKind
from device_runtime.wire.cost import Executed
from device_runtime.wire.support import Kept


def half(row, kept_count, *, samples, steps):
    return Executed(samples * row.flops_forward // 2, 0, 0)


class Trainer:
    def load(self, params, *, reset_optimizer):
        self.supports = {name: kept.support for name, kept in params.items()}
        self.values = {name: kept.values.copy() for name, kept in params.items()}

    def step(self, x, y, lr):
        for values in self.values.values():
            values *= np.float32(1 - lr)
        return StepStats(1.0, len(x), 0)

    evaluate = None

    def kept(self):
        return {name: Kept(values.copy(), self.supports[name]) for name, values in self.values.items()}


class Engine:
    name, version = "toy", "7"

    def open(self, artifact, *, threads, seed):
        manifest_for("toy", artifact)
        return Trainer()


def write(model, spec, folder):
    from export.artifacts.folder import finish, whole_folder

    with whole_folder(folder) as unfinished:
        (unfinished / "toy.bin").write_bytes(b"toy")
        return finish(unfinished, spec, engine="toy", files=("toy.bin",), model=model)


KIND = EngineKind(
    name="toy", preference=PREFERENCE, is_installed=lambda: INSTALLED, needs="a box of bricks",
    engine="toy_engine:Engine", writer="toy_engine:write", tracer="", kernel_cost=half, session_entries={},
)
"""


def install_toy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, preference: int = 1, installed: bool = True,
    entry: str = "toy = toy_engine:KIND",
) -> None:  # fmt: skip
    """Put the distribution `toy-engine` on the path until the test ends."""
    info = folder / "toy_engine-7.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 7\n")
    (info / "entry_points.txt").write_text(f"[espalier.engines]\n{entry}\n")
    text = MODULE.replace("PREFERENCE", str(preference)).replace("INSTALLED", str(installed))
    (folder / "toy_engine.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "toy_engine", raising=False)
