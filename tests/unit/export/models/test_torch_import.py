"""A torch model arrives with its names, its values and its outputs, or is refused in one sentence."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.models.torch_import import import_torch

MODELS = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(128, 10)
        self.ln = nn.LayerNorm(10)
        self.out = nn.Linear(10, 4, bias=False)
    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(torch.relu(x + self.bn2(self.conv2(x))), 2)
        return self.out(self.ln(self.fc(self.drop(x.view(x.size(0), -1)))))

class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]))
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.a.requires_grad_(False)
    def forward(self, x):
        return self.b(torch.relu(self.a(x + self.shift)))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.t, self.a = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)
    def forward(self, x):
        return self.a(x - self.t)

class FixedBatch(nn.Linear):
    def forward(self, x):
        return super().forward(x.reshape(2, self.in_features))

ready = nn.Linear(3, 2)

def fixed(): return FixedBatch(3, 2)
def number(): return 3
def broken(): raise KeyError("weights")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with `my_models.py` in it."""
    (tmp_path / "my_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return tmp_path


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'espalier-fl\[torch\]'"):
        import_torch("my_models:Mixed", (3, 8, 8))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:dropout")
def test_names_values_and_outputs_survive(here: Path) -> None:
    torch = pytest.importorskip("torch")
    model = import_torch("my_models:Mixed", (3, 8, 8))
    onnx.checker.check_model(model.proto, full_check=True)
    twin = sys.modules["my_models"].Mixed().eval()
    state = {key: value.numpy() for key, value in twin.state_dict().items() if not key.endswith("tracked")}
    params = model.initial
    assert set(params) == set(state)
    assert all(np.array_equal(params[key], state[key]) for key in state)
    roles = {p.name: p.role for p in model.parameters}
    assert roles["bn2.running_var"] == "statistic"
    assert roles["bn2.weight"] == roles["ln.weight"] == "norm"
    assert [p.name for p in model.parameters if p.prunable] == [
        "conv1.weight",
        "conv2.weight",
        "fc.weight",
        "out.weight",
    ]
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    (output,) = ReferenceEvaluator(model.proto).run(None, {"input": x})
    np.testing.assert_allclose(output, twin(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


@pytest.mark.torch
def test_dropout_is_announced(here: Path) -> None:
    pytest.importorskip("torch")
    with pytest.warns(UserWarning, match="dropout in my_models:Mixed does not act"):
        import_torch("my_models:Mixed", (3, 8, 8))


@pytest.mark.torch
def test_what_torch_does_not_train_is_no_parameter(here: Path) -> None:
    pytest.importorskip("torch")
    model = import_torch("my_models:Frozen", (3,))
    assert list(model.initial) == ["b.weight", "b.bias"]


@pytest.mark.torch
def test_a_tied_weight_stays_tied_and_a_module_is_taken_as_it_is(here: Path) -> None:
    pytest.importorskip("torch")
    assert list(import_torch("my_models:Tied", (3,)).initial) == ["a.weight", "a.bias", "b.bias"]
    assert list(import_torch("my_models:ready", (3,)).initial) == ["weight", "bias"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("spec", "shape", "text"),
    [
        ("my_models", (3,), "package.module:factory"),
        ("my_modelz:Tied", (3,), "no module 'my_modelz'"),
        ("my_models:Tie", (3,), "has no 'Tie'"),
        ("my_models:number", (3,), "made a int"),
        ("my_models:broken", (3,), "KeyError: 'weights'"),
        ("my_models:Tied", (4,), "cannot be exported for an input of 4"),
        ("my_models:Odd", (3,), "trains 't' in a way"),
        ("my_models:fixed", (3,), "fixes the batch to 2"),
    ],
)
def test_mistakes_are_named(here: Path, spec: str, shape: tuple[int, ...], text: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=text):
        import_torch(spec, shape)
