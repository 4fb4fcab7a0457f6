"""An engine that trains in no time: one step moves every value a quarter of its way to zero, and on by the data's mean.

What a device makes of a round so depends on the parameters it got and on whose data it has, and can be recomputed by
hand: `moved`. Engine "exotic" trains as well, but no artifact can be made for it here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import ModelProto

from device_runtime.engines import StepStats, registry
from device_runtime.engines.kind import EngineKind
from device_runtime.metering import phases, system
from device_runtime.wire.cost import masked_dense
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import MANIFEST_FILE, ArtifactFile, Manifest, encode_manifest
from device_runtime.wire.support import Kept, sha256_hex
from export.artifacts.spec import ArtifactSpec
from export.forward.parameters import parameter_table
from export.models import zoo
from export.models.networks import mlp

MODEL = "tiny"
INPUT, CLASSES = (3,), 2
GRAPH = b"the graph of nothing " * 20


def moved(values: np.ndarray, mean: float) -> np.ndarray:
    """A parameter after one step on data of this mean."""
    return (values * np.float32(0.75) + np.float32(mean)).astype(np.float32)


class FakeTrainer:
    """Holds what it was given, and moves it."""

    fails: Callable[[], bool] = staticmethod(lambda: False)  # asked at every step

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        self._kept = dict(params)

    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> StepStats:
        if FakeTrainer.fails():
            raise EngineError("it will not do")
        self._kept = {n: Kept(moved(k.values, float(x.mean())), k.support) for n, k in self._kept.items()}
        return StepStats(1.0, len(x), 0)

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> StepStats:
        return StepStats(1.0, len(x), 0)

    def kept(self) -> dict[str, Kept]:
        return self._kept


class FakeEngine:
    """Opens anything."""

    name = "fake"
    version = "1"

    def open(self, artifact: Path, *, threads: int, seed: int) -> FakeTrainer:
        return FakeTrainer()


class ExoticEngine(FakeEngine):
    """The same under a name for which nobody writes artifacts."""

    name = "exotic"


def write_artifact(model: ModelProto, spec: ArtifactSpec, folder: Path) -> Manifest:
    """The artifact of the fake engine: a graph of nothing, and the manifest."""
    manifest = Manifest(
        model=spec.name, engine="fake", input=spec.input, class_count=spec.class_count, loss=spec.loss,
        optimizer=spec.optimizer, parameters=parameter_table(model), costs=(),
        files=(ArtifactFile(name="graph", sha=sha256_hex(GRAPH), size_bytes=len(GRAPH)),), opset=17, ir_version=8,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph").write_bytes(GRAPH)
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def write_nothing(_model: ModelProto, _spec: ArtifactSpec, _folder: Path) -> Manifest:
    raise EngineError("nobody here knows how.")


def _kind(name: str, preference: int, engine: str, writer: str) -> EngineKind:
    return EngineKind(
        name=name, preference=preference, is_installed=lambda: True, needs="nothing", engine=f"{__name__}:{engine}",
        writer=f"{__name__}:{writer}", tracer="", kernel_cost=masked_dense, session_entries={},
    )  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], bool]) -> None:
    """Put the engines in the place of all others, and the tiny model into the zoo; `fails` is asked at every step."""
    kinds = {
        "fake": _kind("fake", 2, "FakeEngine", "write_artifact"),
        "exotic": _kind("exotic", 1, "ExoticEngine", "write_nothing"),
    }
    monkeypatch.setattr(registry, "engine_kinds", lambda: kinds)
    monkeypatch.setattr(FakeTrainer, "fails", staticmethod(fails))
    # What it measures of this process says nothing, and would be another in every run.
    for name in ("rss_bytes", "rss_peak_bytes", "pss_bytes", "temperature_c", "frequency_hz"):
        monkeypatch.setattr(system, name, lambda: None)
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter_ns=lambda: 0, process_time_ns=lambda: 0))
    tiny = zoo.ZooModel("a hidden layer of 4", 1, lambda b, classes: mlp(b, classes, hidden=(4,)))
    monkeypatch.setitem(zoo.MODELS, MODEL, tiny)
