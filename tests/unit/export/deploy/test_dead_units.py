"""Dead units go and the output stays: by hand, on random sparse networks, and where a unit must not go."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from export.deploy.dead_units import Cut
from export.deploy.inference_graph import inference_graph, to_onnx
from export.deploy.net import Net
from export.forward.model import ForwardModel
from export.models.graph import GraphBuilder
from export.models.zoo import build_model
from tests.unit.export.conftest import SMALL_MODELS
from tests.unit.export.deploy.conftest import pruned
from tests.unit.export.tflite.conftest import parsed


def outputs(model: ModelProto, x: np.ndarray) -> np.ndarray:
    (found,) = ReferenceEvaluator(model).run(None, {"input": x})
    return found


def assert_same(model: ForwardModel, net: Net, tolerance: float = 1e-6) -> None:
    x = np.random.default_rng(5).standard_normal((4, *net.input_shape)).astype(np.float32)
    expected = outputs(model.proto, x)
    difference = np.abs(outputs(to_onnx(net), x) - expected).max()
    assert difference <= tolerance * max(np.abs(expected).max(), 1e-3)


# fc1 has 4 units: 0 lives, 1 has no outgoing weight, 2 has no incoming weight and the bias 3, 3 none and the bias -1.
W1 = np.array([[1, 2], [3, 4], [0, 0], [0, 0]], dtype=np.float32)
B1 = np.array([0.5, 0.5, 3, -1], dtype=np.float32)
W2 = np.array([[1, 0, 10, 7], [2, 0, 20, 7]], dtype=np.float32)
B2 = np.array([100, 200], dtype=np.float32)


def test_units_without_outgoing_or_incoming_weights_go_and_their_bias_moves_on() -> None:
    text = "2 | h = Gemm <transB=1> (input, w1, b1) r = Relu (h) output = Gemm <transB=1> (r, w2, b2)"
    model = parsed(text, {"w1": W1, "b1": B1, "w2": W2, "b2": B2})
    graph = inference_graph(model)
    assert graph.cuts == (Cut("Gemm -> h", 4, 1),)
    np.testing.assert_array_equal(graph.net.constants["w1"], [[1, 2]])
    np.testing.assert_array_equal(graph.net.constants["w2"], [[1], [2]])
    # relu(3) * 10 and * 20; relu(-1) = 0 adds nothing.
    np.testing.assert_array_equal(graph.net.constants["b2"], [130, 260])
    assert_same(model, graph.net)


def test_death_runs_through_several_layers() -> None:
    """fc3 does not read unit 0 of fc2, which alone read unit 1 of fc1: both go."""
    eye = np.eye(3, dtype=np.float32)
    text = "3 | a = Gemm <transB=1> (input, w1, b) c = Gemm <transB=1> (a, w2, b) output = Gemm <transB=1> (c, w3, b)"
    last = eye.copy()
    last[:, 0] = 0
    second = eye[[1, 0, 2]]
    model = parsed(text, {"w1": eye, "w2": second, "w3": last, "b": np.ones(3, np.float32)})
    graph = inference_graph(model)
    assert graph.cuts == (Cut("Gemm -> a", 3, 2), Cut("Gemm -> c", 3, 2))
    assert_same(model, graph.net)


def conv_pair(pads: str, bias: float) -> ForwardModel:
    """Two convolutions; channel 1 of the first has no incoming weights and the bias given."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    first[1] = 0
    text = f"2,6,6 | h = Conv (input, w1, b1) r = Relu (h) output = Conv <pads={pads}> (r, w2)"
    second = rng.standard_normal((2, 3, 3, 3)).astype(np.float32)
    return parsed(text, {"w1": first, "b1": np.array([0.1, bias, 0.2], np.float32), "w2": second})


@pytest.mark.parametrize(
    ("pads", "bias", "kept"), [("[0,0,0,0]", 2.0, 2), ("[1,1,1,1]", 2.0, 3), ("[1,1,1,1]", -2.0, 2)]
)
def test_a_constant_channel_passes_padding_only_when_it_is_zero(pads: str, bias: float, kept: int) -> None:
    model = conv_pair(pads, bias)
    graph = inference_graph(model)
    assert len(graph.net.constants["w1"]) == kept
    assert_same(model, graph.net)


def test_a_residual_channel_goes_only_when_no_one_reads_it() -> None:
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for i in range(3)}
    weights["w2"][:, 2:] = 0  # the last reader leaves channels 2 and 3 alone
    weights["w1"][:, 3] = 0  # the branch leaves 3 alone
    text = "4,3,3 | a = Conv (input, w0) b = Conv (a, w1) s = Add (a, b) r = Relu (s) output = Conv (r, w2)"
    model = parsed(text, weights)
    graph = inference_graph(model)
    # Channel 3 of a and b goes; channel 2 of a is read by the branch, so it stays in both.
    assert graph.cuts == (Cut("Conv -> a", 4, 3), Cut("Conv -> b", 4, 3))
    assert_same(model, graph.net)


def test_depthwise_concat_and_flatten_are_seen_through() -> None:
    rng = np.random.default_rng(2)
    last = rng.standard_normal((5, 7 * 4)).astype(np.float32)
    last[:, 4:8] = 0  # channel 1 of the first branch
    last[:, 24:28] = 0  # channel 2 of the second
    text = (
        "2,4,4 | a = Conv (input, w0, b0) d = Conv <group=4> (a, wd, bd) e = Conv <kernel_shape=[3,3]> (input, w1) "
        "f = Relu (e) c = Concat <axis=1> (d, f) g = Flatten (c) output = Gemm <transB=1> (g, w2)"
    )
    model = parsed(
        text,
        {
            "w0": rng.standard_normal((4, 2, 2, 2)).astype(np.float32),
            "b0": rng.standard_normal(4).astype(np.float32),
            "wd": rng.standard_normal((4, 1, 2, 2)).astype(np.float32),
            "bd": rng.standard_normal(4).astype(np.float32),
            "w1": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
            "w2": last,
        },
    )
    graph = inference_graph(model)
    assert {(c.before, c.after) for c in graph.cuts} == {(4, 3), (3, 2)}
    (depthwise,) = [x for x in graph.net.layers if x.op == "Conv" and x.integer("group", 1) > 1]
    assert depthwise.integer("group", 1) == 3
    assert_same(model, graph.net)


def test_a_layer_keeps_one_unit_when_all_are_dead() -> None:
    zero = np.zeros((3, 2), np.float32)
    model = parsed(
        "2 | h = Gemm <transB=1> (input, w, b) output = Gemm <transB=1> (h, v, c)",
        {"w": zero, "b": np.ones(3, np.float32), "v": np.ones((2, 3), np.float32), "c": np.zeros(2, np.float32)},
    )
    graph = inference_graph(model)
    assert graph.cuts == (Cut("Gemm -> h", 3, 1),)
    assert_same(model, graph.net)


def test_what_looks_across_channels_keeps_them() -> None:
    model = parsed(
        "4,5 | h = Conv (input, w) s = Softmax <axis=1> (h) output = Conv (s, v)",
        {"w": np.ones((3, 4, 1), np.float32), "v": np.array([[[1], [0], [0]]], np.float32)},
    )
    assert inference_graph(model).cuts == ()


@pytest.mark.parametrize("name", SMALL_MODELS)
@pytest.mark.parametrize("share", [0.0, 0.9, 0.99])
def test_zoo_models_compute_the_same(name: str, share: float) -> None:
    shape = {"mlp": (1, 8, 8), "cnn1d": (6, 32)}.get(name, (1, 20, 20))
    model = pruned(build_model(name, shape, 4, seed=1), share)
    x = np.random.default_rng(5).standard_normal((8, *shape)).astype(np.float32)
    if share < 0.99:
        assert outputs(model.proto, x).std(axis=0).max() > 0.1, "the output depends on the input"
    graph = inference_graph(model)
    assert_same(model, graph.net, tolerance=2e-6)
    if share == 0.99:
        assert graph.cuts
    again = inference_graph(ForwardModel(to_onnx(graph.net)))
    assert again.cuts == ()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 0.98), st.booleans(), st.integers(0, 1))
def test_random_networks_compute_the_same(seed: int, share: float, residual: bool, padding: int) -> None:
    b = GraphBuilder((2, 7, 7), seed)
    x = b.relu(b.conv(b.input, "c1", 6, 3, padding=padding), "r1")
    y = b.batch_norm(b.conv(x, "c2", 6, 3, padding=1), "n2")
    x = b.relu(b.add(y, x, "sum"), "r2") if residual else b.relu(y, "r2")
    x = b.conv(x, "c3", 5, 3, stride=2, padding=padding)
    x = b.relu(b.linear(b.flatten(b.max_pool(x, "pool", 2, stride=1)), "f1", 9), "r3")
    model = pruned(b.model(b.logits(x, "f2", 3), "random"), share, seed)
    graph = inference_graph(model)
    onnx.checker.check_model(to_onnx(graph.net), full_check=True)
    assert_same(model, graph.net, tolerance=2e-6)
