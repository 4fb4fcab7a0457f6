"""A board needs neither torch nor onnx to train, and no onnxruntime to import anything but an engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.engines import available_engines
from device_runtime.wire.manifest import InputSpec
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

_BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise AssertionError(f"{name} was imported")

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Block())
"""

_TRAIN = (
    _BLOCK
    + """
from pathlib import Path
import numpy as np
from device_runtime.engines import open_engine
from device_runtime.wire.manifest import decode_manifest
from device_runtime.wire.support import Kept, Support

artifact = Path(sys.argv[2])
manifest = decode_manifest((artifact / "manifest.json").read_bytes())
trainer = open_engine(manifest.engine).open(artifact, threads=1, seed=0)
params = {p.name: Kept.of(np.full(p.shape, 0.01, np.float32), Support.everything(p.shape)) for p in manifest.parameters}
trainer.load(params, reset_optimizer=True)
stats = trainer.step(np.ones((4, *manifest.input.shape), np.float32), np.arange(4), 0.1)
assert np.isfinite(stats.loss)
assert any(not np.array_equal(k.values, params[n].values) for n, k in trainer.kept().items())
assert not BLOCKED & {name.split(".")[0] for name in sys.modules}, "blocked modules were loaded"
"""
)

_IMPORT = (
    _BLOCK
    + """
import importlib, pkgutil
import device_runtime
names = [m.name for m in pkgutil.walk_packages(device_runtime.__path__, "device_runtime.")]
for name in names:
    if name != "device_runtime.__main__":
        importlib.import_module(name)
assert len(names) > 20
"""
)


def _run(script: str, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("engine", available_engines())
def test_training_imports_neither_torch_nor_onnx(tmp_path: Path, engine: str) -> None:
    spec = ArtifactSpec(
        name="mlp", input=InputSpec(shape=(1, 8, 8)), class_count=10, loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
    )  # fmt: skip
    writer_of(engine)(build_model("mlp", (1, 8, 8), 10, seed=0), spec, tmp_path / "artifact")
    _run(_TRAIN, "torch,onnx,aggregator,export", str(tmp_path / "artifact"))


def test_every_module_of_the_device_imports_without_a_runtime_for_models() -> None:
    _run(_IMPORT, "torch,onnx,onnxruntime,aggregator,export")
