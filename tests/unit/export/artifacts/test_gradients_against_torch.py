"""The training graphs compute torch's loss, logits, gradients and running statistics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from export.models.zoo import build_model

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.parametrize("name", ["lenet5", "cnn", "resnet8"])
def test_one_step_equals_torchs(
    name: str,
    session: Callable[..., Any],
    torch_twins: Mapping[str, Callable[[int], Any]],
    input_shapes: Mapping[str, tuple[int, ...]],
) -> None:
    # Small pictures for the residual net: among half a million activations some lie within rounding of a ReLU's kink,
    # and there two right answers differ.
    shape = (3, 8, 8) if name == "resnet8" else input_shapes[name]
    model = build_model(name, shape, 10, seed=1)
    twin = torch_twins[name](10).train()
    state = {key: torch.from_numpy(value.copy()) for key, value in model.initial.items()}
    assert not twin.load_state_dict(state, strict=False).unexpected_keys
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, *shape)).astype(np.float32), rng.integers(0, 10, 8)
    expected = twin(torch.from_numpy(x))
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.from_numpy(y))
    expected_loss.backward()
    trainer = session(model)
    loss, logits = trainer.train_step(x, y)
    assert loss == pytest.approx(expected_loss.item(), abs=1e-5)
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
    gradients = trainer.gradients()
    assert set(gradients) == {key for key, _ in twin.named_parameters()}
    for key, parameter in twin.named_parameters():
        scale = parameter.grad.abs().max().item()
        np.testing.assert_allclose(gradients[key], parameter.grad.numpy(), atol=1e-4 * scale, err_msg=key)
    for key, buffer in twin.named_buffers():
        if key.endswith("running_mean"):
            np.testing.assert_allclose(trainer.values[key], buffer.numpy(), atol=1e-5, err_msg=key)
