"""Models from outside the zoo train as they do in torch, and every optimizer and loss is torch's."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from device_runtime.wire.manifest import Optimizer
from export.forward.parameters import initial_params
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests.unit.export.conftest import SMALL_MODELS

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MODELS_OUTSIDE = ["depthwise", "group_norm_residual", "encoder", "embedding", "autoencoder"]


def _torch_optimizer(optimizer: Optimizer, module: Any, rate: float) -> Any:
    if optimizer.name == "adamw":
        betas = (optimizer.beta1, optimizer.beta2)
        return torch.optim.AdamW(
            module.parameters(), rate, betas, optimizer.epsilon, weight_decay=optimizer.weight_decay
        )
    return torch.optim.SGD(
        module.parameters(), rate, optimizer.momentum, weight_decay=optimizer.weight_decay, nesterov=optimizer.nesterov
    )


LOSSES = {
    "cross_entropy": "cross_entropy",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "bce_with_logits": "binary_cross_entropy_with_logits",
}


def _data(name: str, shape: tuple[int, ...], step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    if name == "embedding":
        return rng.integers(0, 30, (8, *shape)).astype(np.float32), rng.integers(0, 5, 8)
    x = rng.normal(size=(8, *shape)).astype(np.float32)
    return x, (rng.random(x.shape).astype(np.float32) if name == "autoencoder" else rng.integers(0, 5, 8))


@pytest.mark.parametrize("name", MODELS_OUTSIDE)
def test_a_model_from_outside_trains_as_in_torch(name: str, stepper: Callable[..., Any]) -> None:
    from export.models.torch_import import import_torch
    from tests.unit.export.gradients.torch_models import FACTORIES, SHAPES

    model = import_torch(f"tests.unit.export.gradients.torch_models:{name}", SHAPES[name])
    module = FACTORIES[name]().train()
    optimizer, rate = choose_optimizer("sgd", momentum=0.9), 0.05
    loss: Any = "mse" if name == "autoencoder" else "cross_entropy"
    ours, theirs = stepper(model, optimizer, loss=loss), _torch_optimizer(optimizer, module, rate)
    criterion = getattr(torch.nn.functional, LOSSES[loss])
    for step in range(15):
        x, y = _data(name, SHAPES[name], step)
        theirs.zero_grad()
        expected = criterion(module(torch.from_numpy(x)), torch.from_numpy(y))
        expected.backward()
        theirs.step()
        found = ours.run(x, y, rate)
        assert found["loss"] == pytest.approx(expected.item(), rel=1e-3, abs=1e-4), step
        if step == 0:
            for key, parameter in module.named_parameters():
                scale = max(parameter.grad.abs().max().item(), 1e-4)
                error = np.abs(found[f"{key}.momentum.next"] - parameter.grad.numpy()).max() / scale
                assert error <= 1e-4, (key, error)
    for key, buffer in module.named_buffers():
        if key.endswith("running_mean"):
            np.testing.assert_allclose(ours.values[key], buffer.numpy(), atol=2e-3, err_msg=key)


OPTIMIZERS = [
    choose_optimizer("sgd"),
    choose_optimizer("sgd", weight_decay=0.1),
    choose_optimizer("sgd", momentum=0.9, weight_decay=0.1),
    choose_optimizer("sgd", momentum=0.8, nesterov=True, weight_decay=0.1),
    choose_optimizer("adamw", weight_decay=0.1),
    choose_optimizer("adamw", beta1=0.5, beta2=0.9, epsilon=1e-3),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", list(LOSSES))
def test_optimizers_and_losses_are_torchs(optimizer: Optimizer, loss: Any, stepper: Callable[..., Any]) -> None:
    model = build_model("mlp", (6,), 4, seed=3, hidden=(5,))
    layers = [torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)]
    module = torch.nn.Sequential(*layers)
    values = list(initial_params(model).values())
    module.load_state_dict(dict(zip(module.state_dict(), map(torch.from_numpy, values), strict=True)))
    ours, theirs = stepper(model, optimizer, loss=loss), _torch_optimizer(optimizer, module, 0.02)
    criterion = getattr(torch.nn.functional, LOSSES[loss])
    for step in range(10):
        rng = np.random.default_rng(step)
        x = rng.normal(size=(7, 6)).astype(np.float32)
        y = rng.integers(0, 4, 7) if loss == "cross_entropy" else rng.random((7, 4)).astype(np.float32)
        theirs.zero_grad()
        expected = criterion(module(torch.from_numpy(x)), torch.from_numpy(y))
        evaluated = ours.eval(x, y)["loss"]
        expected.backward()
        theirs.step()
        assert ours.run(x, y, 0.02)["loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert evaluated == pytest.approx(expected.item(), rel=1e-5)
        for name, parameter in zip(initial_params(model), module.parameters(), strict=True):
            np.testing.assert_allclose(ours.values[name], parameter.detach().numpy(), atol=2e-6, err_msg=name)


def test_clipping_and_the_proximal_term_are_torchs(stepper: Callable[..., Any]) -> None:
    model = build_model("mlp", (6,), 4, seed=3, hidden=(5,))
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    values = list(initial_params(model).values())
    module.load_state_dict(dict(zip(module.state_dict(), map(torch.from_numpy, values), strict=True)))
    anchors = [p.detach().clone() for p in module.parameters()]
    optimizer = Optimizer(name="sgd", clip_norm=0.1, proximal_mu=0.5)
    ours, theirs = stepper(model, optimizer), torch.optim.SGD(module.parameters(), 0.5)
    for step in range(8):
        rng = np.random.default_rng(step)
        x, y = rng.normal(size=(7, 6)).astype(np.float32), rng.integers(0, 4, 7)
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        pull = sum(((p - a) ** 2).sum() for p, a in zip(module.parameters(), anchors, strict=True))
        (loss + 0.25 * pull).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        theirs.step()
        assert ours.run(x, y, 0.5)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in zip(initial_params(model), module.parameters(), strict=True):
        np.testing.assert_allclose(ours.values[name], parameter.detach().numpy(), atol=2e-6, err_msg=name)


def _by_torch(model: onnx.ModelProto, values: Mapping[str, Any]) -> Any:
    """The output of a zoo model in training mode, by torch's functions, so that torch differentiates it."""
    f, known = torch.nn.functional, dict(values)
    for node in model.graph.node:
        a = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        v = [known[name] for name in node.input]
        rank = v[0].ndim - 2
        if node.op_type == "Conv":
            pads, stride = a["pads"][:rank], a["strides"]
            convolve = {1: f.conv1d, 2: f.conv2d}[rank]
            y = convolve(*v, **({} if len(v) == 3 else {"bias": None}), stride=stride, padding=pads)
        elif node.op_type == "MaxPool":
            y = {1: f.max_pool1d, 2: f.max_pool2d}[rank](v[0], a["kernel_shape"], a["strides"])
        elif node.op_type == "BatchNormalization":
            # torch keeps the sample variance, ONNX that of the population; only the mean is compared.
            y = f.batch_norm(v[0], v[3], v[4], v[1], v[2], True, 1.0 - a["momentum"], a["epsilon"])
        elif node.op_type == "Gemm":
            y = f.linear(*v)
        else:
            simple = {
                "Relu": torch.relu,
                "Flatten": lambda x: x.flatten(1),
                "Add": torch.add,
                "Softmax": lambda x: torch.softmax(x, -1),
                "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
            }
            y = simple[node.op_type](*v)
        known[node.output[0]] = y
    return known["output"]


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_every_zoo_models_gradients_are_torchs(
    name: str, stepper: Callable[..., Any], input_shapes: Mapping[str, tuple[int, ...]]
) -> None:
    model = build_model(name, input_shapes[name], 10, seed=1)
    ours = stepper(model, choose_optimizer("sgd", momentum=0.9))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, *input_shapes[name])).astype(np.float32), rng.integers(0, 10, 8)
    trained = [p.name for p in ours.step.parameters if p.role != "statistic"]
    found = ours.run(x, y, 0.1)
    errors = []
    # Where rounding moves a value across the kink of a ReLU or a pooling, its gradient jumps in one precision and not
    # in the other; so one of the two has to agree with ours in every parameter.
    for kind in (torch.float32, torch.float64):
        values = {key: torch.from_numpy(value.copy()).to(kind) for key, value in initial_params(model).items()}
        for key in trained:
            values[key].requires_grad_()
        output = _by_torch(model, values | {"input": torch.from_numpy(x).to(kind)})
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(y))
        loss.backward()
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
        for key in values:
            if key.endswith("running_mean"):
                np.testing.assert_allclose(found[f"{key}.next"], values[key].numpy(), atol=1e-5, err_msg=key)
        expected = {key: values[key].grad.numpy() for key in trained}
        scales = {key: max(np.abs(value).max(), 1e-6) for key, value in expected.items()}
        errors.append(max(np.abs(found[f"{k}.momentum.next"] - v).max() / scales[k] for k, v in expected.items()))
    assert min(errors) <= 1e-4, errors
