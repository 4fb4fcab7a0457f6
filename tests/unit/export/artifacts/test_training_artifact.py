"""The artifact folder: complete, vouched for by its manifest, repeatable to the byte, and replaced whole."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from device_runtime.wire.errors import EngineError, UsageError
from device_runtime.wire.manifest import InputSpec, Manifest, decode_manifest
from device_runtime.wire.support import sha256_hex
from export.artifacts.ort_training import write_training_artifact
from export.artifacts.spec import ArtifactSpec
from export.forward.model import ForwardModel
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

pytest.importorskip("onnxruntime")

Artifact = Callable[..., tuple[Path, Manifest]]


def test_momentum_is_the_hosts_and_has_no_optimizer_graph(artifact: Artifact) -> None:
    folder, manifest = artifact(build_model("mlp", (8,), 4, seed=1), optimizer=choose_optimizer("sgd", momentum=0.9))
    assert manifest.optimizer.where == "host"
    assert sorted(p.name for p in folder.iterdir()) == [
        "eval_model.onnx",
        "manifest.json",
        "nominal_checkpoint",
        "training_model.onnx",
    ]


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_graph_inputs_are_input_labels_parameters_masks(rule: str, artifact: Artifact) -> None:
    model = build_model("mlp", (8,), 4, seed=1)
    folder, _ = artifact(model, optimizer=choose_optimizer(rule))
    for file in ("training_model.onnx", "eval_model.onnx"):
        graph = onnx.load(folder / file).graph
        names = [i.name for i in graph.input]
        assert names[:2] == ["input", "labels"]
        assert names[2:8] == list(model.initial)
        assert names[8:11] == ["fc1.weight.mask", "fc2.weight.mask", "fc3.weight.mask"]
        assert graph.output[1].name == "output"
    assert onnx.load(folder / "optimizer_model.onnx").ir_version <= 10


def test_manifest_vouches_for_every_file(artifact: Artifact) -> None:
    folder, manifest = artifact(build_model("lenet5", (1, 28, 28), 10, seed=1))
    assert decode_manifest((folder / "manifest.json").read_bytes()) == manifest
    assert {f.name for f in manifest.files} == {p.name for p in folder.iterdir()} - {"manifest.json"}
    for file in manifest.files:
        data = (folder / file.name).read_bytes()
        assert (file.sha, file.size_bytes) == (sha256_hex(data), len(data))
    assert (manifest.engine, manifest.opset, manifest.ir_version) == ("ort_training", 17, 8)


GENERATE = """
import sys, pathlib
from device_runtime.wire.manifest import InputSpec
from export.steps.optimizers import choose_optimizer
from export.artifacts.ort_training import write_training_artifact
from export.artifacts.spec import ArtifactSpec
from export.models.zoo import build_model
for name in sys.argv[2:]:
    spec = ArtifactSpec(name=name, input=InputSpec(shape=(3, 16, 16)), class_count=10, loss="cross_entropy",
        optimizer=choose_optimizer("adamw"))
    write_training_artifact(build_model(name, (3, 16, 16), 10, 1), spec, pathlib.Path(sys.argv[1]) / name)
print("torch" in sys.modules)
"""


def _generate(folder: Path, hash_seed: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[4]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-c", GENERATE, str(folder), *names],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_same_arguments_give_the_same_bytes_in_another_process_and_order(tmp_path: Path) -> None:
    first = _generate(tmp_path / "a", "1", ["resnet8", "lenet5", "mlp"])
    _generate(tmp_path / "b", "2", ["mlp", "resnet8", "lenet5"])
    hashes = [
        {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 15
    assert (first.stdout.strip(), first.stderr) == ("False", ""), "no torch, and nothing on stderr"


def test_graphs_do_not_depend_on_the_initial_values(tmp_path: Path) -> None:
    manifests = [_write(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    assert manifests[0] == manifests[1]


def _write(folder: Path, seed: int = 1, **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "name": "mlp",
        "input": InputSpec(shape=(8,)),
        "class_count": 4,
        "loss": "cross_entropy",
        "optimizer": choose_optimizer("sgd"),
    }
    return write_training_artifact(build_model("mlp", (8,), 4, seed=seed), ArtifactSpec(**arguments | changes), folder)


def test_an_artifact_is_replaced_whole_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("temp.onnx").write_text("somebody's")
    _write(tmp_path / "artifact", optimizer=choose_optimizer("adamw"))
    _write(tmp_path / "artifact", optimizer=choose_optimizer("sgd", momentum=0.9))
    assert not (tmp_path / "artifact" / "optimizer_model.onnx").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "temp.onnx"]
    assert json.loads((tmp_path / "artifact" / "manifest.json").read_text())["optimizer"]["momentum"] == 0.9


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="no training artifact"):
        _write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_failed_generation_keeps_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "artifact")
    before = (tmp_path / "artifact" / "manifest.json").read_bytes()
    monkeypatch.setattr("export.artifacts.folder.encode_manifest", lambda manifest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _write(tmp_path / "artifact")
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]
    assert (tmp_path / "artifact" / "manifest.json").read_bytes() == before


def test_a_wrong_shape_or_class_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes input of shape \(8,\), not \(9,\)"):
        _write(tmp_path / "a", input=InputSpec(shape=(9,)))
    with pytest.raises(UsageError, match="not 5 classes"):
        _write(tmp_path / "a", class_count=5)
    assert not list(tmp_path.iterdir())


def test_an_operator_without_a_gradient_is_the_engines_refusal(artifact: Artifact, tmp_path: Path) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[batch, 4] input) => (float[batch, 4] output) { a = MatMul(input, w) output = Celu(a) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "w"))
    with pytest.raises(EngineError, match=r"cannot differentiate the model: .*Celu"):
        artifact(ForwardModel(model))
    assert not list(tmp_path.iterdir())
