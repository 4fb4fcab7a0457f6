"""The inference graph is plain: normalisation folded, shapes constant, one form for every contraction."""

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from export.deploy.inference_graph import inference_graph, to_onnx
from export.deploy.simplify import per_channel
from export.forward.form import IR_VERSION_MAX
from export.models.zoo import build_model
from tests.unit.export.deploy.conftest import pruned
from tests.unit.export.tflite.conftest import parsed

RNG = np.random.default_rng(3)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    # Not onnx's reference, whose transposed convolution knows no groups.
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    (output,) = session.run(None, {"input": x})
    return output


def ops(text: str, **tensors: np.ndarray) -> list[str]:
    model = parsed(text, tensors)
    graph = inference_graph(model, cut=False)
    x = RNG.standard_normal((3, *graph.net.input_shape)).astype(np.float32)
    expected, found = (run(m, x) for m in (model.proto, to_onnx(graph.net)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return [layer.op for layer in graph.net.layers]


def test_batch_normalisation_is_gone_from_the_residual_network() -> None:
    graph = inference_graph(pruned(build_model("resnet8", (3, 8, 8), 4, seed=1), 0.5))
    assert {layer.op for layer in graph.net.layers} == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}


def test_gemm_comes_in_one_form() -> None:
    text = "6 | output = Gemm <alpha=0.5, beta=3.0> (input, w, b)"
    graph = inference_graph(parsed(text, {"w": values(6, 4), "b": values(4)}))
    (gemm,) = graph.net.layers
    assert gemm.integer("transB", 0) == 1
    assert set(gemm.attributes) == {"transB"}
    assert [graph.net.constants[v].shape for v in gemm.inputs[1:]] == [(4, 6), (4,)]


def test_scale_and_shift_behind_a_contraction_are_folded() -> None:
    assert ops(
        "6 | h = MatMul (input, w) a = Add (h, b) output = Mul (s, a)", w=values(6, 4), b=values(4), s=values(1)
    ) == ["Gemm"]
    assert ops(
        "2,5 | h = Conv (input, w) a = Sub (h, b) output = Div (a, s)", w=values(3, 2, 2), b=values(3, 1), s=values(1)
    ) == ["Conv"]


def test_what_varies_over_positions_or_is_read_twice_is_not_folded() -> None:
    assert ops("2,5 | h = Conv (input, w) output = Add (h, b)", w=values(3, 2, 2), b=values(3, 4)) == ["Conv", "Add"]
    text = "2,5 | h = Conv (input, w) a = Mul (h, s) output = Add (a, h)"
    assert ops(text, w=values(3, 2, 2), s=values(3, 1)) == ["Conv", "Mul", "Add"]


def test_a_shared_weight_is_scaled_for_one_reader_only() -> None:
    text = "4 | a = Gemm (input, w) b = Gemm (input, w) c = Mul (a, s) output = Add (c, b)"
    assert ops(text, w=values(4, 4), s=values(4)) == ["Gemm", "Gemm", "Add"]


def test_transposed_convolution_with_groups_takes_the_scale_of_its_outputs() -> None:
    text = "4,5 | h = ConvTranspose <group=2> (input, w) output = Mul (h, s)"
    assert ops(text, w=values(4, 2, 2), s=values(4, 1)) == ["ConvTranspose"]


def test_shapes_taken_from_the_batch_become_constant() -> None:
    text = (
        "4,2,3 | d = Shape (input) n = Gather (d, zero) u = Unsqueeze (n, zeros) c = Concat <axis=0> (u, rest) "
        "output = Reshape (input, c)"
    )
    constants = {"zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1])}
    assert ops(text, **constants) == ["Flatten"]
    assert ops(text, **{**constants, "rest": np.array([3, 8])}) == ["Reshape"]


def test_constants_are_folded_and_quantisation_is_left_alone() -> None:
    assert ops("4 | w = Transpose (v) output = Gemm (input, w)", v=values(3, 4)) == ["Gemm"]
    scale = np.array(0.5, np.float32)
    text = "4 | w = DequantizeLinear (v, s) output = MatMul (input, w)"
    graph = inference_graph(parsed(text, {"v": np.ones((4, 3), np.int8), "s": scale}))
    assert [layer.op for layer in graph.net.layers] == ["DequantizeLinear", "MatMul"]


def test_an_operator_of_another_domain_is_refused_by_name() -> None:
    model = parsed("4 | output = Relu (input)", {})
    model.graph.node[0].domain, model.graph.node[0].name = "com.example", "mine"
    model.proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UsageError, match=r"'mine' is com\.example\.Relu, no standard operator"):
        inference_graph(model)


def test_the_ir_version_is_one_the_runtime_takes() -> None:
    model = parsed("4 | output = Relu (input)", {})
    model.proto.ir_version = 13
    assert to_onnx(inference_graph(model).net).ir_version == IR_VERSION_MAX


def test_equal_small_constants_are_kept_once() -> None:
    text = "4 | a = Clip (input, l1, h1) b = Neg (a) output = Clip (b, l2, h2)"
    bounds = {name: np.array(value, np.float32) for name, value in (("l1", -1), ("h1", 1), ("l2", -1), ("h2", 1))}
    model = to_onnx(inference_graph(parsed(text, bounds)).net)
    assert sorted(float(numpy_helper.to_array(t)) for t in model.graph.initializer) == [-1.0, 1.0]


def test_a_constant_per_channel_is_told_from_a_map() -> None:
    assert per_channel(np.ones((3, 1, 1)), (1, 3, 4, 4)) is not None
    assert per_channel(np.ones((4,)), (1, 3, 4, 4)) is None
    assert per_channel(np.ones((1, 1, 3, 1, 1)), (1, 3, 4, 4)) is None
