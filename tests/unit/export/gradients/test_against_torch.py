"""Models from outside the zoo train as they do in torch, and every optimizer and loss is torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from device_runtime.wire.manifest import Optimizer
from export.optimizers import choose_optimizer
from export.parameters import initial_params
from export.zoo import MODELS, build_model

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
    from export.torch_import import import_torch
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


def test_every_zoo_model_is_covered_by_a_comparison() -> None:
    assert set(MODELS) >= {"lenet5", "cnn", "resnet20"}
