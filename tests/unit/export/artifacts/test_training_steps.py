"""One step after another: losses fall, masks hold, optimizers follow torch's rules, running statistics move."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from export.forward.model import ForwardModel
from export.forward.values import forward_with
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests.unit.export.conftest import SMALL_MODELS

pytest.importorskip("onnxruntime")

Session = Callable[..., Any]


def batch(shape: tuple[int, ...], count: int = 16, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, classes, count)


def random_masks(model: ForwardModel, kept: float = 0.3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {p.name: (rng.random(p.shape) < kept).astype(np.float32) for p in model.parameters if p.prunable}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_loss_falls_over_thirty_steps(name: str, session: Session, input_shapes: Mapping[str, Any]) -> None:
    shape = input_shapes[name]
    trainer = session(build_model(name, shape, 4, seed=1))
    x, y = batch(shape, count=8)
    losses = []
    for _ in range(30):
        losses.append(trainer.train_step(x, y)[0])
        trainer.optimizer_step(0.05)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "cnn1d"])
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_pruned_weights_have_zero_gradient_and_stay_positive_zero(
    name: str, rule: str, session: Session, input_shapes: Mapping[str, Any]
) -> None:
    model = build_model(name, input_shapes[name], 4, seed=1)
    masks = random_masks(model)
    weight_decay = 0.1 if rule == "adamw" else 0.0
    trainer = session(model, masks, optimizer=choose_optimizer(rule, weight_decay=weight_decay))
    for weight, mask in masks.items():
        trainer.values[weight][mask == 0] = 0.0
    x, y = batch(input_shapes[name], count=8)
    for _ in range(5):
        trainer.train_step(x, y)
        gradients = trainer.gradients()
        for weight, mask in masks.items():
            assert not gradients[weight][mask == 0].view(np.uint32).any()
            assert gradients[weight][mask == 1].any()
        trainer.optimizer_step(0.01)
    for weight, mask in masks.items():
        assert not trainer.values[weight][mask == 0].view(np.uint32).any()


def test_masked_weights_read_as_zero_whatever_they_hold(session: Session) -> None:
    model = build_model("mlp", (8,), 4, seed=1)
    masks = random_masks(model)
    trainer = session(model, masks)
    x, y = batch((8,))
    clean = trainer.eval_step(x, y)[1].copy()
    for weight, mask in masks.items():
        trainer.values[weight][mask == 0] = 1e6
    assert np.array_equal(trainer.eval_step(x, y)[1], clean)


def test_sgd_graph_follows_the_rule(session: Session) -> None:
    trainer = session(build_model("lenet5", (1, 28, 28), 4, seed=1))
    x, y = batch((1, 28, 28))
    for step in range(5):
        trainer.train_step(x, y)
        gradients = trainer.gradients()
        expected = {name: trainer.values[name] - np.float32(0.1) * g for name, g in gradients.items()}
        trainer.optimizer_step(0.1)
        for name, value in expected.items():
            np.testing.assert_allclose(trainer.values[name], value, rtol=0, atol=1e-7, err_msg=f"{name}, step {step}")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_graph_follows_torchs_rule_over_twenty_steps(weight_decay: float, session: Session) -> None:
    beta1, beta2, epsilon, learning_rate = 0.8, 0.95, 1e-8, 0.01
    rule = choose_optimizer("adamw", weight_decay=weight_decay, beta1=beta1, beta2=beta2, epsilon=epsilon)
    trainer = session(build_model("lenet5", (1, 28, 28), 4, seed=1), optimizer=rule)
    x, y = batch((1, 28, 28))
    theta = {name: v.astype(np.float64) for name, v in trainer.values.items() if not name.endswith(".mask")}
    m = {name: np.zeros_like(v) for name, v in theta.items()}
    v = {name: np.zeros_like(value) for name, value in theta.items()}
    for step in range(1, 21):
        trainer.train_step(x, y)
        for name, g in trainer.gradients().items():
            g = g.astype(np.float64)
            theta[name] *= 1 - learning_rate * weight_decay
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            root = np.sqrt(v[name]) / np.sqrt(1 - beta2**step) + epsilon
            theta[name] -= learning_rate / (1 - beta1**step) * m[name] / root
        trainer.optimizer_step(learning_rate)
        for name, expected in theta.items():
            # Where a gradient is near epsilon its float32 rounding is amplified to at most a fraction of the step.
            np.testing.assert_allclose(trainer.values[name], expected, rtol=0, atol=2e-5, err_msg=f"{name}, {step}")


def test_batch_norm_statistics_move_by_a_tenth_towards_the_batch(session: Session) -> None:
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    trainer = session(model)
    x, y = batch((3, 8, 8))
    trainer.train_step(x, y)
    weight = model.initial["conv1.weight"]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    z = np.einsum("nchwij,ocij->onhw", patches, weight).reshape(16, -1)
    np.testing.assert_allclose(trainer.values["bn1.running_mean"], 0.1 * z.mean(axis=1), atol=1e-6)
    # onnxruntime keeps the variance of the batch over n (torch: over n - 1); 1024 elements here, told apart at 1e-6.
    np.testing.assert_allclose(trainer.values["bn1.running_var"], 0.9 + 0.1 * z.var(axis=1), atol=1e-6)
    moved = [p.name for p in model.parameters if p.role == "statistic"]
    before = model.initial
    assert len(moved) == 18
    assert all(not np.array_equal(trainer.values[name], before[name]) for name in moved)


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "resnet20"])
def test_eval_graph_agrees_with_the_forward_model(name: str, session: Session, input_shapes: Mapping[str, Any]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    shape = input_shapes[name]
    model = build_model(name, shape, 4, seed=1)
    trainer = session(model)
    x, y = batch(shape)
    for _ in range(3):
        trainer.train_step(x, y)
        trainer.optimizer_step(0.01)
    loss, logits = trainer.eval_step(x, y)
    params = {p.name: trainer.values[p.name].copy() for p in model.parameters}
    forward = runtime.InferenceSession(forward_with(model, params).to_bytes())
    (expected,) = forward.run(None, {"input": x})
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    shifted = expected - expected.max(axis=1, keepdims=True)
    log_likelihood = shifted[np.arange(len(y)), y] - np.log(np.exp(shifted).sum(axis=1))
    assert loss == pytest.approx(-log_likelihood.mean(), abs=1e-5)


def test_mean_squared_error_takes_labels_of_the_outputs_shape(session: Session) -> None:
    trainer = session(build_model("mlp", (8,), 3, seed=1), loss="mse")
    x = batch((8,))[0]
    y = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    loss, output = trainer.train_step(x, y)
    assert loss == pytest.approx(float(np.mean((output - y) ** 2)), rel=1e-5)
    bias_gradient = (2 * (output - y) / y.size).sum(axis=0)
    np.testing.assert_allclose(trainer.gradients()["fc3.bias"], bias_gradient, atol=1e-6)


def test_layer_normalisation_and_transposed_tied_weights_train_under_masks(session: Session) -> None:
    parsed = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[batch, 3, 4] input) => (float[batch, 4] output)
        { z = LayerNormalization(input, s, b) a = MatMul(z, w) r = Relu(a) t = Transpose<perm = [1, 0]>(w)
          c = MatMul(r, t) output = ReduceMean<axes = [1], keepdims = 0>(c) }""")
    rng = np.random.default_rng(0)
    values = {"s": np.ones(4), "b": np.zeros(4), "w": rng.normal(size=(4, 4))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    parsed.graph.initializer.extend(tensors)
    model = ForwardModel(parsed)
    masks = {"w": np.eye(4, dtype=np.float32)}
    trainer = session(model, masks)
    x, y = batch((3, 4))
    losses = []
    for _ in range(10):
        losses.append(trainer.train_step(x, y)[0])
        gradient = trainer.gradients()["w"]
        assert not gradient[masks["w"] == 0].view(np.uint32).any()
        assert np.all(gradient[masks["w"] == 1] != 0)
        trainer.optimizer_step(0.1)
    assert losses[-1] < losses[0]
    assert not np.array_equal(trainer.values["s"], values["s"])
