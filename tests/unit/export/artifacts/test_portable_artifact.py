"""The portable artifact: complete, vouched for by its manifest, repeatable to the byte, and replaced whole."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec, Manifest, Optimizer, decode_manifest
from device_runtime.wire.support import sha256_hex
from export.artifacts.portable import write_portable_artifact
from export.artifacts.spec import ArtifactSpec
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer


def _write(folder: Path, name: str = "lenet5", shape: tuple[int, ...] = (1, 28, 28), **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "name": name,
        "input": InputSpec(shape=shape),
        "class_count": 10,
        "loss": "cross_entropy",
        "optimizer": choose_optimizer("sgd", momentum=0.9),
    } | changes
    return write_portable_artifact(build_model(name, shape, 10, seed=1), ArtifactSpec(**arguments), folder)


def test_the_folder_is_complete_and_vouched_for(tmp_path: Path) -> None:
    manifest = _write(tmp_path / "a")
    assert decode_manifest((tmp_path / "a/manifest.json").read_bytes()) == manifest
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["eval.onnx", "manifest.json", "train_step.onnx"]
    for file in manifest.files:
        data = (tmp_path / "a" / file.name).read_bytes()
        assert (file.sha, file.size_bytes) == (sha256_hex(data), len(data))
    assert (manifest.engine, manifest.optimizer.where, manifest.opset) == ("portable", "graph", 17)
    assert manifest.ir_version == onnx.load(tmp_path / "a/train_step.onnx").ir_version <= 10
    assert [s.name for s in manifest.states] == [f"{p.name}.momentum" for p in manifest.parameters]
    assert [s.shape for s in manifest.states] == [p.shape for p in manifest.parameters]
    assert len(manifest.costs) == 5


def test_the_graphs_do_not_depend_on_the_initial_values(tmp_path: Path) -> None:
    first = _write(tmp_path / "a")
    model = build_model("lenet5", (1, 28, 28), 10, seed=2)
    spec = ArtifactSpec(
        name="lenet5", input=InputSpec(shape=(1, 28, 28)), class_count=10, loss="cross_entropy",
        optimizer=first.optimizer,
    )  # fmt: skip
    assert write_portable_artifact(model, spec, tmp_path / "b") == first


GENERATE = """
import sys, pathlib
from device_runtime.wire.manifest import InputSpec
from export.steps.optimizers import choose_optimizer
from export.artifacts.portable import write_portable_artifact
from export.artifacts.spec import ArtifactSpec
from export.models.zoo import build_model
for name in sys.argv[2:]:
    spec = ArtifactSpec(name=name, input=InputSpec(shape=(3, 32, 32)), class_count=10, loss="cross_entropy",
        optimizer=choose_optimizer("adamw"))
    write_portable_artifact(build_model(name, (3, 32, 32), 10, 1), spec, pathlib.Path(sys.argv[1]) / name)
print("torch" in sys.modules, "onnxruntime" in sys.modules)
"""


def test_same_arguments_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[4]
    contents = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", GENERATE, str(tmp_path / seed), "mlp", "resnet8", "cifar10net"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.split() == ["False", "False"]
        files = sorted((tmp_path / seed).rglob("*.*"))
        contents.append({str(f.relative_to(tmp_path / seed)): f.read_bytes() for f in files if f.is_file()})
    assert len(contents[0]) == 9
    assert contents[0] == contents[1]


def test_an_artifact_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    _write(tmp_path / "a", optimizer=Optimizer(name="adamw"))
    assert decode_manifest((tmp_path / "a/manifest.json").read_bytes()).optimizer.name == "adamw"
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no training artifact"):
        _write(tmp_path / "b")
    with pytest.raises(UsageError, match="takes input of shape"):
        _write(tmp_path / "c", input=InputSpec(shape=(1, 8, 8)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
