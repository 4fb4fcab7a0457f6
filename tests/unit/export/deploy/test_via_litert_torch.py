"""Torch models through litert-torch: what our writer refuses, with what was trained, proven, or refused and no file."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from device_runtime.wire.errors import UsageError
from export.commands import app
from export.forward.model import ForwardModel
from export.models.zoo import build_model
from tests.unit.export.deploy.conftest import pruned

RunFolder = Callable[..., Path]
INSTALLED = importlib.util.find_spec("litert_torch") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="litert-torch, an extra of 1.2 GB beside torch, is not installed")

MODELS = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.query = nn.Linear(6, 8), nn.Linear(8, 8)
        self.value, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("shift", torch.tensor([0.5]))
    def forward(self, x):
        x = nn.functional.gelu(self.embed(x.transpose(1, 2))) + self.shift
        seen = torch.softmax(self.query(x) @ x.transpose(1, 2), -1) @ self.value(x)
        return self.head(seen.mean(1))

class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
    def forward(self, x):
        return self.up(torch.relu(self.norm(self.conv(x))))

class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen, self.fc = nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 2)
        self.register_buffer("shift", torch.randn(8))
    def forward(self, x):
        return self.fc(torch.relu(self.frozen(x) + self.shift))

def flat():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

class Fickle(nn.Module):
    made = 0
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        Fickle.made += 1
        self.factor = Fickle.made
    def forward(self, x):
        return self.fc(x) * self.factor

class Closed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        if torch._dynamo.is_compiling() or torch.compiler.is_exporting():
            raise RuntimeError("not here")
        return self.fc(x)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models above, of a name of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{_name(tmp_path)}.py").write_text(MODELS)
    return tmp_path


def _name(folder: Path) -> str:
    return "models_" + "".join(c if c.isalnum() else "_" for c in folder.name)


def tflite(source: str, out: Path, *options: str, via: str = "litert-torch") -> dict[str, object]:
    arguments = ["tflite", source, "--out", str(out), "--via", via, "--json", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


@needs_it
@pytest.mark.parametrize(
    ("model", "shape"), [("Attention", "6,20"), ("Image", "2,8,10"), ("flat", "4"), ("Drawn", "4")]
)
def test_a_torch_model_becomes_a_proven_file(model: str, shape: str, folder: Path) -> None:
    out = folder / "m.tflite"
    report = tflite(f"{_name(folder)}:{model}", out, "--input", shape)
    assert report["verification"]["max_relative"] <= 1e-5
    described = report["inspection"]["provenance"]
    assert described["converter"].startswith("litert-torch 0.")
    assert (described["layout"], described["model"]) == ("channels_last", model)
    channels, *rest = map(int, shape.split(","))
    assert report["inspection"]["inputs"] == {"input": [1, *rest, channels]}
    assert list(report["inspection"]["outputs"]) == ["output"]


@needs_it
def test_what_our_writer_refuses_is_written(folder: Path) -> None:
    with pytest.raises(UsageError, match="no way to write"):
        tflite(f"{_name(folder)}:Attention", folder / "m.tflite", "--input", "6,20", via="writer")
    tflite(f"{_name(folder)}:Attention", folder / "m.tflite", "--input", "6,20")


@needs_it
def test_int8_takes_the_same_ranges_and_keeps_the_names(folder: Path) -> None:
    x = np.random.default_rng(1).standard_normal((64, 2, 8, 10)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    options = ("--input", "2,8,10", "--int8", "--data", "data.npz")
    report = tflite(f"{_name(folder)}:Image", folder / "m.tflite", *options)
    assert report["calibration"] == "64 of data.npz:x"
    assert report["verification"]["rms_relative"] < 0.1
    assert report["inspection"]["provenance"]["dtype"] == "int8"
    assert report["inspection"]["inputs"] == {"input": [1, 8, 10, 2]}


@needs_it
def test_a_run_gives_what_was_trained_not_what_the_factory_makes(folder: Path, run_folder: RunFolder) -> None:
    """The run's weights are pruned, the factory's are not: zeros in the file come from the run."""
    from export.models.torch_import import import_torch

    spec = f"{_name(folder)}:flat"
    run = _run_of(run_folder(), pruned(import_torch(spec, (4,)), 0.5), spec)
    report = tflite(str(run), folder / "m.tflite")
    assert report["verification"]["max_relative"] <= 1e-5
    assert report["inspection"]["provenance"]["run"] == "run"
    layers = [layer for layer in report["inspection"]["layers"] if layer["parameters"]]
    assert all(0.2 < layer["zeros"] / layer["parameters"] < 0.8 for layer in layers), layers
    with pytest.raises(UsageError, match=r"has no tensor '0\.weight' of shape \(8, 4\): is it still the model"):
        tflite(str(_run_of(run, None, f"{_name(folder)}:Fickle")), folder / "n.tflite")
    assert not (folder / "n.tflite").exists()


def _run_of(run: Path, model: ForwardModel | None, spec: str) -> Path:
    """The run folder with another model in it, and settings that name where it is from."""
    import safetensors.numpy

    from device_runtime.wire.submodel import encode_supports
    from device_runtime.wire.support import Support

    (run / "settings.json").write_text(json.dumps({"model": {"torch": spec}}))
    if model is None:
        return run
    (run / "held_out.npz").unlink()
    place, values = run / "models" / "3", dict(model.initial)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["input"] = {"shape": [4]}
    shapes = {p["name"]: p for p in manifest["parameters"]}
    base = next(p for p in shapes.values() if p["role"] == "weight")
    manifest["parameters"] = [{**base, "name": n, "shape": list(v.shape)} for n, v in values.items()]
    (place / "manifest.json").write_text(json.dumps(manifest))
    onnx.save(model.proto, place / "forward.onnx")
    (place / "params.safetensors").write_bytes(safetensors.numpy.save(values))
    supports = {n: Support.from_mask(v != 0) for n, v in values.items() if v.ndim == 2}
    (place / "supports").write_bytes(encode_supports(supports))
    return run


@needs_it
def test_a_factory_that_makes_another_model_each_time_is_found_out(folder: Path) -> None:
    out = folder / "m.tflite"
    out.write_bytes(b"an earlier one")
    with pytest.raises(UsageError, match=r"m\.tflite does not compute what Fickle does"):
        tflite(f"{_name(folder)}:Fickle", out, "--input", "4")
    assert [p.name for p in folder.glob("*.tflite*")] == []


@needs_it
def test_what_the_converter_cannot_do_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"litert-torch cannot convert .*:Closed \(.*leave out --via") as caught:
        tflite(f"{_name(folder)}:Closed", folder / "m.tflite", "--input", "4")
    assert "\n" not in str(caught.value)
    assert not (folder / "m.tflite").exists()


def test_a_model_that_is_not_of_torch_is_refused(tmp_path: Path) -> None:
    onnx.save(build_model("mlp", (4,), 2, seed=1).proto, tmp_path / "plain.onnx")
    with pytest.raises(UsageError, match="plain is no torch model"):
        tflite(str(tmp_path / "plain.onnx"), tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ("x86_64", r"pip install 'espalier-fl\[litert-torch\]'"),
        ("aarch64", "no build for aarch64: export on an x86-64"),
    ],
)
def test_where_it_is_missing_the_message_says_what_to_do(
    machine: str,
    text: str,
    tmp_path: Path,
    run_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "litert_torch" else found(name))
    monkeypatch.setattr("platform.machine", lambda: machine)
    run = run_folder()
    (run / "settings.json").write_text(json.dumps({"model": {"torch": "my_model:small"}}))
    with pytest.raises(UsageError, match=text):
        tflite(str(run), tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()
