"""A bare training session over an artifact, by the C bindings alone, so that tests of `export` need no engine."""

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.wire.manifest import InputSpec, Loss, Manifest, Optimizer, mask_name
from export.artifacts.ort_training import write_training_artifact
from export.artifacts.spec import ArtifactSpec
from export.forward.model import ForwardModel
from export.models.zoo import MODELS
from export.steps.optimizers import choose_optimizer

INPUT_SHAPES = {
    "mlp": (1, 8, 8),
    "lenet5": (1, 28, 28),
    "mnistnet": (1, 28, 28),
    "cifar10net": (3, 32, 32),
    "cnn": (3, 32, 32),
    "resnet8": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet18": (3, 8, 8),
    "cnn1d": (6, 128),
}
# ResNet-18 has the operators of ResNet-20 and forty times its weights: what costs time by the weight leaves it out.
SMALL_MODELS = tuple(name for name in MODELS if name != "resnet18")


class BareSession:
    """Parameters and gradients as numpy views into the session's own memory."""

    def __init__(self, folder: Path, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> None:
        bindings: Any = pytest.importorskip("onnxruntime.capi._pybind_state")
        if not hasattr(bindings, "Module"):
            pytest.skip("onnxruntime-training is not installed")
        self._c = bindings
        device = bindings.OrtDevice(bindings.OrtDevice.cpu(), bindings.OrtDevice.default_memory(), 0)
        options = bindings.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._state = bindings.load_checkpoint(str(folder / "nominal_checkpoint"))
        paths = [str(folder / f"{kind}_model.onnx") for kind in ("training", "eval", "optimizer")]
        self._module = bindings.Module(paths[0], self._state, paths[1], device, options)
        self._fill = np.zeros(self._module.get_parameters_size(False), dtype=np.float32)
        self._module.copy_buffer_to_parameters(bindings.OrtValue.ortvalue_from_numpy(self._fill, device), False)
        self._optimizer = None
        if (folder / "optimizer_model.onnx").exists():
            self._optimizer = bindings.Optimizer(paths[2], self._state, device, options)
        self.values = {name: self._view(self._state.get_parameter(name).data) for name in self._state.parameter_names()}
        for name, value in params.items():
            self.values[name][...] = value
            if mask_name(name) in self.values:
                self.values[mask_name(name)][...] = masks.get(name, np.ones(value.shape))

    def _view(self, value: Any) -> np.ndarray:
        count = int(np.prod(value.shape()))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(value.data_ptr())).reshape(value.shape())

    def train_step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and logits; gradients are then in `gradients()`."""
        fetched = self._c.OrtValueVector()
        self._module.train_step([x, y], fetched)
        return float(fetched[0].numpy()), fetched[1].numpy()

    def eval_step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        fetched = self._c.OrtValueVector()
        self._module.eval_step([x, y], fetched)
        return float(fetched[0].numpy()), fetched[1].numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        found = {}
        for name in self.values:
            parameter = self._state.get_parameter(name)
            if parameter.requires_grad:
                found[name] = self._view(parameter.grad).copy()
        return found

    def optimizer_step(self, learning_rate: float) -> None:
        assert self._optimizer is not None
        self._optimizer.set_learning_rate(learning_rate)
        self._optimizer.optimizer_step()
        self._module.lazy_reset_grad()

    def forget_gradients(self) -> None:
        self._module.lazy_reset_grad()


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """Writes the artifact of a model: artifact(model, optimizer=..., loss=...) gives its folder and manifest."""

    def write(
        model: ForwardModel, *, optimizer: Optimizer | None = None, loss: Loss = "cross_entropy"
    ) -> tuple[Path, Manifest]:
        (shape,), ((classes,),) = model.inputs.values(), model.outputs.values()
        spec = ArtifactSpec(
            name=model.graph.name,
            input=InputSpec(shape=shape),
            class_count=classes,
            loss=loss,
            optimizer=optimizer or choose_optimizer("sgd"),
        )
        return tmp_path / "artifact", write_training_artifact(model, spec, tmp_path / "artifact")

    return write


@pytest.fixture
def session(artifact: Callable[..., tuple[Path, Manifest]]) -> Callable[..., BareSession]:
    """Opens a training session of a model: session(model, masks={}, optimizer=..., loss=...)."""

    def open_session(
        model: ForwardModel, masks: Mapping[str, np.ndarray] | None = None, **arguments: Any
    ) -> BareSession:
        folder, _ = artifact(model, **arguments)
        masks = masks or {}
        params = {name: value * masks.get(name, np.float32(1)) for name, value in model.initial.items()}
        return BareSession(folder, params, masks)

    return open_session


@pytest.fixture(scope="session")
def input_shapes() -> Mapping[str, tuple[int, ...]]:
    """An input shape that each zoo model is made for."""
    return INPUT_SHAPES


@pytest.fixture(scope="session")
def torch_twins() -> Mapping[str, Callable[[int], Any]]:
    """Zoo models written with torch.nn, by name: twins[name](class_count), parameters under the zoo's names."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def lenet5(classes: int) -> Any:
        layers = [("conv1", nn.Conv2d(1, 6, 5, padding=2)), ("r1", nn.ReLU()), ("p1", nn.MaxPool2d(2))]
        layers += [("conv2", nn.Conv2d(6, 16, 5)), ("r2", nn.ReLU()), ("p2", nn.MaxPool2d(2)), ("f", nn.Flatten())]
        layers += [("fc1", nn.Linear(400, 120)), ("r3", nn.ReLU()), ("fc2", nn.Linear(120, 84)), ("r4", nn.ReLU())]
        return nn.Sequential(dict_of([*layers, ("fc3", nn.Linear(84, classes))]))

    def cnn(classes: int) -> Any:
        layers: list[tuple[str, Any]] = []
        for i, (before, after) in enumerate(((3, 32), (32, 32), (32, 64), (64, 64)), start=1):
            layers += [(f"conv{i}", nn.Conv2d(before, after, 3, padding=1)), (f"r{i}", nn.ReLU())]
            layers += [(f"p{i}", nn.MaxPool2d(2))] if i % 2 == 0 else []
        layers += [("f", nn.Flatten()), ("fc1", nn.Linear(4096, 370)), ("r", nn.ReLU())]
        return nn.Sequential(dict_of([*layers, ("fc2", nn.Linear(370, classes))]))

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(after)
            if before != after:
                conv = nn.Conv2d(before, after, 1, stride=stride, bias=False)
                self.shortcut = nn.Sequential(dict_of([("conv", conv), ("bn", nn.BatchNorm2d(after))]))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))

    def resnet8(classes: int) -> Any:
        layers: list[tuple[str, Any]] = [("conv1", nn.Conv2d(3, 16, 3, padding=1, bias=False))]
        layers += [("bn1", nn.BatchNorm2d(16)), ("r", nn.ReLU())]
        for i, (before, after, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)), start=1):
            layers.append((f"layer{i}", nn.Sequential(Block(before, after, stride))))
        layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("f", nn.Flatten())]
        return nn.Sequential(dict_of([*layers, ("fc", nn.Linear(64, classes))]))

    return {"lenet5": lenet5, "cnn": cnn, "resnet8": resnet8}


def dict_of(layers: list[tuple[str, Any]]) -> OrderedDict[str, Any]:
    """What torch.nn.Sequential takes for named layers."""
    return OrderedDict(layers)
