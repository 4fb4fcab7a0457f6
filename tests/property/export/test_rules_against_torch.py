"""The rules give torch autograd's gradients, over random shapes, attributes and broadcasting."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.export.gradients.finite_differences import runtime_gradients

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
F = torch.nn.functional

small = st.integers(1, 4)
seeds = st.integers(0, 1000)


def _agree(node: Any, inputs: Mapping[str, np.ndarray], function: Callable[..., Any], version: int = 17) -> None:
    """The gradients of the node's inputs are those of torch's `function` of the same arrays."""
    single = {name: np.asarray(value, dtype=np.float32) for name, value in inputs.items()}
    weights, found = runtime_gradients(node, single, version)
    tensors = [torch.from_numpy(v.astype(np.float64)).requires_grad_() for v in single.values()]
    y = function(*tensors)
    assert tuple(y.shape) == weights.shape
    y.backward(torch.from_numpy(weights.astype(np.float64)))
    for (name, gradient), tensor in zip(found.items(), tensors, strict=True):
        expected = tensor.grad.numpy()
        scale = max(float(np.abs(expected).max()), 1e-3)
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * scale, err_msg=name)


def _normal(seed: int, *shape: int) -> np.ndarray:
    # A stream of its own: values that equal the weights of the output would make some gradients vanish.
    return np.random.default_rng((seed, 7)).normal(size=shape)


ELEMENTWISE = {
    "Relu": ({}, torch.relu),
    "LeakyRelu": ({"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
    "Sigmoid": ({}, torch.sigmoid),
    "HardSigmoid": ({"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid),
    "HardSwish": ({}, F.hardswish),
    "Tanh": ({}, torch.tanh),
    "Elu": ({"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "Selu": ({}, F.selu),
    "Softplus": ({}, F.softplus),
    "Softsign": ({}, F.softsign),
    "Erf": ({}, torch.erf),
    "Exp": ({}, torch.exp),
    "Abs": ({}, torch.abs),
    "Neg": ({}, torch.neg),
}


@pytest.mark.parametrize("op", ELEMENTWISE)
@settings(max_examples=8, deadline=None)
@given(shape=st.lists(small, min_size=1, max_size=4), seed=seeds)
def test_activations(op: str, shape: list[int], seed: int) -> None:
    attributes, function = ELEMENTWISE[op]
    _agree(helper.make_node(op, ["x"], ["y"], **attributes), {"x": 2 * _normal(seed, *shape)}, function)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
    _agree(node, {"x": 2 * _normal(0, 5, 7)}, lambda x: F.gelu(x, approximate=approximate), version=20)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@settings(max_examples=8, deadline=None)
@given(shape=st.lists(small, min_size=1, max_size=4), seed=seeds, data=st.data())
def test_softmax(op: str, shape: list[int], seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    function = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}[op]
    _agree(helper.make_node(op, ["x"], ["y"], axis=axis), {"x": _normal(seed, *shape)}, lambda x: function(x, axis))


BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow}


@pytest.mark.parametrize("op", BINARY)
@settings(max_examples=10, deadline=None)
@given(full=st.lists(st.integers(2, 4), min_size=1, max_size=3), seed=seeds, data=st.data())
def test_broadcasting(op: str, full: list[int], seed: int, data: st.DataObject) -> None:
    first = [3, *(n if data.draw(st.booleans()) else 1 for n in full)]
    second = [n if data.draw(st.booleans()) else 1 for n in full[data.draw(st.integers(0, len(full))) :]]
    inputs = {"a": np.abs(_normal(seed, *first)) + 0.5, "b": np.abs(_normal(seed + 1, *second)) + 0.5}
    _agree(helper.make_node(op, ["a", "b"], ["y"]), inputs, BINARY[op])


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([(1, 3, 5), (1, 16, 7), (1, 100, 3), (1, 12, 20), (2, 4, 6), (4, 4, 4), (3, 3, 6)]),
    kernel=st.tuples(small, small),
    stride=st.tuples(small, small),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    pad=st.tuples(*[st.integers(0, 2)] * 2),
    size=st.tuples(st.integers(7, 30), st.integers(7, 24)),
    seed=seeds,
)
def test_conv(
    groups: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    group, channels, out = groups
    inputs = {"x": _normal(seed, 2, channels, *size), "w": _normal(seed, out, channels // group, *kernel)}
    inputs["b"] = _normal(seed, out)
    node = helper.make_node(
        "Conv", list(inputs), ["y"], group=group, kernel_shape=kernel, strides=stride, dilations=dilation, pads=pad * 2
    )
    _agree(node, inputs, lambda x, w, b: F.conv2d(x, w, b, stride, pad, dilation, group))


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([(1, 3, 5), (1, 16, 7), (2, 4, 6), (4, 4, 4)]),
    kernel=st.tuples(small, small),
    stride=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    extra=st.integers(0, 1),
    pad=st.integers(0, 1),
    seed=seeds,
)
def test_conv_transpose(
    groups: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], extra: int, pad: int, seed: int
) -> None:
    group, channels, out = groups
    inputs = {"x": _normal(seed, 2, channels, 4, 5), "w": _normal(seed, channels, out // group, *kernel)}
    inputs["b"] = _normal(seed, out)
    node = helper.make_node(
        "ConvTranspose",
        list(inputs),
        ["y"],
        group=group,
        kernel_shape=kernel,
        strides=stride,
        pads=[pad] * 4,
        output_padding=[extra] * 2,
    )
    _agree(node, inputs, lambda x, w, b: F.conv_transpose2d(x, w, b, stride, pad, extra, group))


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    pad=st.integers(0, 1),
    include=st.booleans(),
    seed=seeds,
)
def test_pools(kernel: int, stride: int, size: tuple[int, int], pad: int, include: bool, seed: int) -> None:
    pad = min(pad, kernel // 2)
    x = {"x": _normal(seed, 2, 3, *size)}
    window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    _agree(helper.make_node("MaxPool", ["x"], ["y"], **window), x, lambda x: F.max_pool2d(x, kernel, stride, pad))
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=int(include), **window)
    _agree(node, x, lambda x: F.avg_pool2d(x, kernel, stride, pad, False, include))


@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(2, 4), st.integers(3, 5), st.integers(5, 8)), seed=seeds)
def test_normalisations(shape: tuple[int, int, int], seed: int) -> None:
    x = _normal(seed, *shape) + 0.5
    per_channel = {"x": x, "s": _normal(seed, shape[1]), "b": _normal(seed + 1, shape[1])}
    node = helper.make_node("InstanceNormalization", list(per_channel), ["y"])
    _agree(node, per_channel, lambda x, s, b: F.instance_norm(x, weight=s, bias=b))
    last = {"x": x, "s": _normal(seed, shape[2]), "b": _normal(seed + 1, shape[2])}
    node = helper.make_node("LayerNormalization", list(last), ["y"])
    _agree(node, last, lambda x, s, b: F.layer_norm(x, (shape[2],), s, b))
    grouped = {"x": _normal(seed, shape[0], 6, shape[2], 3), "s": _normal(seed, 6), "b": _normal(seed + 1, 6)}
    node = helper.make_node("GroupNormalization", list(grouped), ["y"], num_groups=3)
    _agree(node, grouped, lambda x, s, b: F.group_norm(x, 3, s, b), version=21)


@settings(max_examples=10, deadline=None)
@given(lead=st.lists(small, min_size=0, max_size=2), rows=small, inner=small, columns=small, seed=seeds)
def test_matmul(lead: list[int], rows: int, inner: int, columns: int, seed: int) -> None:
    inputs = {"a": _normal(seed, 3, *lead, rows, inner), "b": _normal(seed + 1, inner, columns)}
    _agree(helper.make_node("MatMul", ["a", "b"], ["y"]), inputs, torch.matmul)
    inputs = {"a": inputs["a"], "b": _normal(seed + 1, *(1 for _ in lead), inner, columns)}
    _agree(helper.make_node("MatMul", ["a", "b"], ["y"]), inputs, torch.matmul)
