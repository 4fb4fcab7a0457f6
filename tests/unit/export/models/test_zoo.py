"""The zoo gives valid models of the promised sizes, the same bits for the same seed, and says which input fits."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.forward.model import ForwardModel
from export.models.zoo import MODELS, build_model


def counts(model: ForwardModel) -> dict[str, int]:
    return {p.name: math.prod(p.shape) for p in model.parameters}


def prunable(model: ForwardModel) -> list[int]:
    return [math.prod(p.shape) for p in model.parameters if p.prunable]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_passes_the_full_checker(name: str, input_shapes: Mapping[str, Any]) -> None:
    model = build_model(name, input_shapes[name], 10, seed=1)
    onnx.checker.check_model(model.proto, full_check=True)
    assert (model.ir_version, model.opset) == (8, 17)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 10)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_gives_one_row_of_logits_per_sample(name: str, input_shapes: Mapping[str, Any]) -> None:
    model = build_model(name, input_shapes[name], 5, seed=1)
    x = np.random.default_rng(0).normal(size=(3, *input_shapes[name])).astype(np.float32)
    (logits,) = ReferenceEvaluator(model.proto).run(None, {"input": x})
    assert logits.shape == (3, 5)
    assert np.all(np.isfinite(logits))
    assert np.ptp(logits, axis=0).min() > 0


def test_mnistnet_has_the_published_weights() -> None:
    model = build_model("mnistnet", (1, 28, 28), 10, seed=1)
    assert prunable(model) == [250, 5000, 256000, 500]
    assert sum(counts(model).values()) == 261_840


def test_cifar10net_has_the_published_weights() -> None:
    model = build_model("cifar10net", (3, 32, 32), 10, seed=1)
    assert prunable(model) == [450, 2400, 768000, 10080, 840]
    assert sum(counts(model).values()) == 782_006


def test_lenet5_has_the_classic_size() -> None:
    assert sum(counts(build_model("lenet5", (1, 28, 28), 10, seed=1)).values()) == 61_706
    assert sum(counts(build_model("lenet5", (1, 32, 32), 10, seed=1)).values()) == 61_706


def test_mlp_counts_by_hand() -> None:
    model = build_model("mlp", (3, 4), 5, seed=1, hidden=(7,))
    assert counts(model) == {"fc1.weight": 84, "fc1.bias": 7, "fc2.weight": 35, "fc2.bias": 5}


def test_cnn_has_one_point_six_million_parameters() -> None:
    total = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 192 + 4096 * 370 + 370 + 370 * 10 + 10
    assert sum(counts(build_model("cnn", (3, 32, 32), 10, seed=1)).values()) == total == 1_585_168


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3)])
def test_residual_networks_count_by_hand(name: str, blocks: int) -> None:
    convolutions = 9 * 3 * 16 + 9 * 2 * blocks * 16 * 16
    for narrow, wide in ((16, 32), (32, 64)):
        convolutions += 9 * narrow * wide + 9 * (2 * blocks - 1) * wide * wide + narrow * wide
    channels = 16 + 2 * blocks * (16 + 32 + 64) + 32 + 64
    model = build_model(name, (3, 32, 32), 10, seed=1)
    assert sum(prunable(model)) == convolutions + 640
    assert sum(counts(model).values()) == convolutions + 4 * channels + 650


def test_cnn1d_fits_sensor_windows_and_spectrograms() -> None:
    for shape in ((6, 128), (40, 49)):
        total = 5 * (shape[0] * 32 + 32 * 64 + 64 * 64) + 160 + 64 * 64 + 64 + 64 * 8 + 8
        assert sum(counts(build_model("cnn1d", shape, 8, seed=1)).values()) == total


def test_double_softmax_gives_probabilities() -> None:
    model = build_model("mnistnet", (1, 28, 28), 10, seed=1, double_softmax=True)
    (p,) = ReferenceEvaluator(model.proto).run(None, {"input": np.ones((2, 1, 28, 28), dtype=np.float32)})
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert p.min() >= 0


@pytest.mark.parametrize("name", list(MODELS))
def test_same_seed_same_bytes_and_other_seed_other_values(name: str, input_shapes: Mapping[str, Any]) -> None:
    one, same, other = (build_model(name, input_shapes[name], 10, seed=seed) for seed in (1, 1, 2))
    assert one.to_bytes() == same.to_bytes()
    a, b = one.initial, other.initial
    assert list(a) == list(b)
    assert all(not np.array_equal(a[p.name], b[p.name]) for p in one.parameters if p.role in ("weight", "bias"))


def test_initial_values_are_uniform_within_the_fan_in_bound() -> None:
    params = build_model("lenet5", (1, 28, 28), 10, seed=1).initial
    for layer, fan_in, gain in (("conv1", 25, 6), ("conv2", 150, 6), ("fc1", 400, 6), ("fc2", 120, 6), ("fc3", 84, 1)):
        assert np.abs(params[f"{layer}.bias"]).max() <= 1 / math.sqrt(fan_in)
        bound = math.sqrt(gain / fan_in)
        weight = params[f"{layer}.weight"]
        assert 0.9 * bound < np.abs(weight).max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert params["fc1.weight"].std() == pytest.approx(math.sqrt(2 / 400), rel=0.01)


@pytest.mark.parametrize(
    ("name", "given", "smallest"),
    [
        ("lenet5", (1, 8, 30), (1, 16, 16)),
        ("mnistnet", (1, 12, 28), (1, 13, 13)),
        ("cifar10net", (3, 12, 12), (3, 13, 13)),
        ("cnn", (3, 3, 3), (3, 4, 4)),
        ("cnn1d", (6, 3), (6, 4)),
    ],
)
def test_an_input_too_small_is_refused_with_the_smallest_that_fits(
    name: str, given: tuple[int, ...], smallest: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match=f"smallest that fits is {'x'.join(map(str, smallest))}$"):
        build_model(name, given, 10, seed=1)
    fitting = build_model(name, smallest, 10, seed=1)
    x = np.ones((1, *smallest), dtype=np.float32)
    assert ReferenceEvaluator(fitting.proto).run(None, {"input": x})[0].shape == (1, 10)
    for axis in range(1, len(smallest)):
        with pytest.raises(UsageError, match="does not fit"):
            build_model(name, tuple(n - (i == axis) for i, n in enumerate(smallest)), 10, seed=1)


@pytest.mark.parametrize("name", ["mlp", "resnet8", "resnet20"])
def test_models_without_a_smallest_input_take_a_single_element(name: str) -> None:
    model = build_model(name, (1, 1, 1), 2, seed=1)
    assert ReferenceEvaluator(model.proto).run(None, {"input": np.ones((2, 1, 1, 1), np.float32)})[0].shape == (2, 2)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"no model 'vgg'.*choose one of mlp, lenet5"):
        build_model("vgg", (1, 28, 28), 10, seed=1)
    with pytest.raises(UsageError, match=r"channels, height, width, not 28x28"):
        build_model("lenet5", (28, 28), 10, seed=1)
    with pytest.raises(UsageError, match=r"has no option 'depth': it has hidden"):
        build_model("mlp", (4,), 10, seed=1, depth=3)
    with pytest.raises(UsageError, match="class count is 0"):
        build_model("mlp", (4,), 0, seed=1)
    with pytest.raises(UsageError, match=r"make the input smaller, the limit is 268,435,456"):
        build_model("mlp", (3, 10**6), 10, seed=1)
    with pytest.raises(UsageError, match="at least one axis"):
        build_model("mlp", (), 10, seed=1)
