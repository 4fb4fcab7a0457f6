"""Every operator that can be written computes in LiteRT what ONNX's reference says."""

# ruff: noqa: E501 - a table of cases, one line each

from collections.abc import Callable

import numpy as np
import pytest

from device_runtime.wire.errors import UsageError
from export.deploy.inference_graph import inference_graph
from tests.unit.export.tflite.conftest import parsed

Both = Callable[..., tuple[np.ndarray, np.ndarray]]
RNG = np.random.default_rng(7)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CASES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "conv": ("3,8,9 | output = Conv <pads=[1,1,1,1]> (input, w, b)", {"w": values(4, 3, 3, 3), "b": values(4)}),
    "conv without bias": ("3,8,9 | output = Conv (input, w)", {"w": values(4, 3, 3, 3)}),
    "conv stride, SAME begins late": (
        "2,8,8 | output = Conv <pads=[1,1,1,1], strides=[2,2]> (input, w, b)", {"w": values(4, 2, 3, 3), "b": values(4)}),
    "conv uneven pads": (
        "2,7,9 | output = Conv <pads=[0,2,3,1], strides=[2,1]> (input, w)", {"w": values(3, 2, 2, 3)}),
    "conv auto_pad": ('2,7,9 | output = Conv <auto_pad="SAME_LOWER", strides=[2,2]> (input, w)', {"w": values(3, 2, 4, 3)}),
    "conv dilated": ("2,9,9 | output = Conv <pads=[2,2,2,2], dilations=[2,2]> (input, w)", {"w": values(3, 2, 3, 3)}),
    "depthwise": ("4,8,8 | output = Conv <group=4, pads=[1,1,1,1]> (input, w, b)", {"w": values(4, 1, 3, 3), "b": values(4)}),
    "depthwise, two filters a channel": ("4,8,8 | output = Conv <group=4> (input, w)", {"w": values(8, 1, 3, 3)}),
    "grouped": ("4,8,8 | output = Conv <group=2, pads=[1,1,1,1]> (input, w, b)", {"w": values(6, 2, 3, 3), "b": values(6)}),
    "grouped, padding written out": (
        "4,8,8 | output = Conv <group=2, pads=[2,2,2,2]> (input, w)", {"w": values(6, 2, 3, 3)}),
    "conv 1-D": ("3,20 | output = Conv <pads=[2,2], strides=[2]> (input, w, b)", {"w": values(5, 3, 5), "b": values(5)}),
    "depthwise 1-D": ("3,20 | output = Conv <group=3> (input, w)", {"w": values(3, 1, 5)}),
    "transposed": (
        "3,5,4 | output = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (input, w, b)",
        {"w": values(3, 4, 3, 3), "b": values(4)}),
    "transposed, whole": ("3,5,4 | output = ConvTranspose <strides=[2,2]> (input, w)", {"w": values(3, 2, 2, 2)}),
    "transposed 1-D": ("3,6 | output = ConvTranspose <strides=[2], pads=[1,1]> (input, w)", {"w": values(3, 2, 4)}),
    "gemm": ("6 | output = Gemm <transB=1, alpha=0.5, beta=2.0> (input, w, b)", {"w": values(4, 6), "b": values(4)}),
    "gemm, weight as it is": ("6 | output = Gemm (input, w)", {"w": values(6, 4)}),
    "matmul and add": ("6 | h = MatMul (input, w) output = Add (h, b)", {"w": values(6, 4), "b": values(4)}),
    "flatten and gemm": (
        "3,4,5 | h = Flatten (input) r = Relu (h) output = Gemm <transB=1> (r, w, b)",
        {"w": values(7, 60), "b": values(7)}),
    "flatten read by two": (
        "3,4 | h = Flatten (input) a = Gemm <transB=1> (h, w) b = Gemm <transB=1> (h, w) output = Add (a, b)",
        {"w": values(7, 12)}),
    "flatten and softmax": ("3,4,2 | h = Flatten (input) output = Softmax (h)", {}),
    "flatten and batch norm": (
        "3,4,2 | h = Flatten (input) output = BatchNormalization (h, s, b, m, v)",
        {"s": values(24), "b": values(24), "m": values(24), "v": np.abs(values(24)) + 0.5}),
    "max pool": ("3,8,9 | output = MaxPool <kernel_shape=[2,2], strides=[2,2]> (input)", {}),
    "max pool SAME": ("3,7,7 | output = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (input)", {}),
    "max pool, other padding": ("3,8,8 | output = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (input)", {}),
    "max pool, padding behind relu": (
        "3,8,8 | h = Relu (input) output = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (h)", {}),
    "max pool 1-D": ("3,9 | output = MaxPool <kernel_shape=[3], strides=[2]> (input)", {}),
    "average pool": ("3,8,8 | output = AveragePool <kernel_shape=[2,2], strides=[2,2]> (input)", {}),
    "average pool, padding counts": (
        "3,8,8 | output = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (input)", {}),
    "average pool, padding left out": ("3,8,8 | output = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (input)", {}),
    "global average pool": ("3,8,8 | h = GlobalAveragePool (input) output = Flatten (h)", {}),
    "global max pool": ("3,8,8 | h = GlobalMaxPool (input) output = Flatten (h)", {}),
    "mean over positions": ("3,8,9 | output = ReduceMean <axes=[2,3], keepdims=0> (input)", {}),
    "mean over height": ("3,8,9 | output = ReduceMean <axes=[2], keepdims=0> (input)", {}),
    "mean over channels": ("3,8,9 | output = ReduceMean <axes=[1]> (input)", {}),
    "instance norm": ("3,6,5 | output = InstanceNormalization (input, s, b)", {"s": values(3), "b": values(3)}),
    "layer norm": ("12 | output = LayerNormalization <axis=-1> (input, s, b)", {"s": values(12), "b": values(12)}),
    "batch norm alone": (
        "3,6,5 | h = Relu (input) output = BatchNormalization (h, s, b, m, v)",
        {"s": values(3), "b": values(3), "m": values(3), "v": np.abs(values(3)) + 0.5}),
    "batch norm behind conv": (
        "3,6,5 | h = Conv (input, w) output = BatchNormalization (h, s, b, m, v)",
        {"w": values(4, 3, 2, 2), "s": values(4), "b": values(4), "m": values(4), "v": np.abs(values(4)) + 0.5}),
    "batch norm behind transposed": (
        "4,6,5 | h = ConvTranspose <group=1> (input, w) output = BatchNormalization (h, s, b, m, v)",
        {"w": values(4, 3, 2, 2), "s": values(3), "b": values(3), "m": values(3), "v": np.abs(values(3)) + 0.5}),
    "relu": ("3,4,4 | output = Relu (input)", {}),
    "relu beside another reader": (
        "3,4,4 | h = Conv (input, w) r = Relu (h) output = Add (h, r)", {"w": values(4, 3, 1, 1)}),
    "relu6 fused": (
        "3,4,4 | h = Conv (input, w) output = Clip (h, lo, hi)",
        {"w": 9 * values(4, 3, 1, 1), "lo": np.float32(0).reshape(()), "hi": np.float32(6).reshape(())}),
    "clip": ("3,4 | output = Clip (input, lo, hi)", {"lo": np.array(-0.25, np.float32), "hi": np.array(0.5, np.float32)}),
    "clip from below": ("3,4 | output = Clip (input, lo)", {"lo": np.array(-0.25, np.float32)}),
    "leaky relu": ("3,4,4 | output = LeakyRelu <alpha=0.2> (input)", {}),
    "prelu": ("3,4,4 | output = PRelu (input, a)", {"a": values(3, 1, 1)}),
    "elu": ("5 | output = Elu (input)", {}),
    "sigmoid": ("3,4 | output = Sigmoid (input)", {}),
    "tanh": ("5 | output = Tanh (input)", {}),
    "hard swish": ("3,4,4 | output = HardSwish (input)", {}),
    "hard sigmoid": ("3,4,4 | output = HardSigmoid <alpha=0.3, beta=0.4> (input)", {}),
    "swish": ("3,4,4 | s = Sigmoid (input) output = Mul (input, s)", {}),
    "abs, exp, sqrt, neg": ("5 | a = Abs (input) b = Sqrt (a) c = Neg (b) output = Exp (c)", {}),
    "add a constant per channel": ("3,4,5 | output = Add (input, c)", {"c": values(3, 1, 1)}),
    "add a map": ("3,4,5 | output = Add (c, input)", {"c": values(4, 5)}),
    "subtract, divide": ("3,4 | a = Sub (c, input) output = Div (a, d)", {"c": values(3, 1), "d": np.array([2.0], np.float32)}),
    "residual": (
        "3,6,6 | h = Conv <pads=[1,1,1,1]> (input, w) s = Add (h, input) output = Relu (s)", {"w": values(3, 3, 3, 3)}),
    "squeeze and excite": (
        "3,6,6 | p = GlobalAveragePool (input) h = Conv (p, w) s = Sigmoid (h) output = Mul (input, s)",
        {"w": values(3, 3, 1, 1)}),
    "max and min of two": ("3,4 | a = Neg (input) b = Max (input, a) output = Min (b, c)", {"c": values(3, 4)}),
    "concat of channels": ("3,4,5 | a = Neg (input) output = Concat <axis=1> (input, a)", {}),
    "concat along length": ("3,5 | a = Neg (input) output = Concat <axis=2> (input, a)", {}),
    "pad": ("3,4,5 | output = Pad (input, p)", {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "pad with a value": ("3,4 | output = Pad (input, p, v)", {"p": np.array([0, 1, 2, 0, 0, 1]), "v": np.array(1.5, np.float32)}),
    "pad by reflection": ('3,4,5 | output = Pad <mode="reflect"> (input, p)', {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "reshape to an image": ("24 | output = Reshape (input, s)", {"s": np.array([-1, 4, 2, 3])}),
    "reshape to a sequence": ("4,2,3 | output = Reshape (input, s)", {"s": np.array([0, 4, 6])}),
    "reshape across channels": ("4,2,3 | output = Reshape (input, s)", {"s": np.array([-1, 2, 4, 3])}),
    "reshape from the batch": (
        "4,2,3 | d = Shape (input) n = Gather (d, zero) u = Unsqueeze (n, axis) s = Concat <axis=0> (u, rest) "
        "output = Reshape (input, s)",
        {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([3, 8])}),
    "transpose": ("4,2,3 | output = Transpose <perm=[0,3,1,2]> (input)", {}),
    "transpose of a sequence": ("4,6 | output = Transpose <perm=[0,2,1]> (input)", {}),
    "shuffle channels": (
        "4,3,3 | a = Reshape (input, s) b = Transpose <perm=[0,2,1,3,4]> (a) output = Reshape (b, t)",
        {"s": np.array([0, 2, 2, 3, 3]), "t": np.array([0, 4, 3, 3])}),
    "squeeze": ("1,6 | output = Squeeze (input, a)", {"a": np.array([1])}),
    "unsqueeze": ("3,6 | output = Unsqueeze (input, a)", {"a": np.array([1])}),
    "softmax": ("7 | output = Softmax <axis=-1> (input)", {}),
    "softmax over channels": ("3,4,4 | output = Softmax <axis=1> (input)", {}),
    "log softmax": ("7 | output = LogSoftmax (input)", {}),
    "upsample": (
        '3,4,5 | output = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> '
        "(input, , f)", {"f": np.array([1, 1, 2, 3], np.float32)}),
    "dropout and identity": ("5 | a = Dropout (input) b = Identity (a) c = Relu (b) output = Identity (c)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_litert_computes_what_onnx_says(name: str, both: Both) -> None:
    text, tensors = CASES[name]
    expected, found = both(text, **tensors)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


REFUSED: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "unknown operator": ("5 | a = Relu (input) output = Erf (a)", {}, r"Erf at node 'Erf -> output'"),
    "several of them": ("5 | a = Erf (input) output = Softplus (a)", {}, r"Erf at node .*, Softplus at node"),
    "3-D convolution": ("2,4,4,4 | output = Conv (input, w)", {"w": values(2, 2, 3, 3, 3)}, "works on 3 dimensions"),
    "computed weight": (
        "3,4 | t = Transpose <perm=[0,2,1]> (input) a = Flatten (input) b = Flatten (t) c = Transpose (b) "
        "output = Gemm (a, c)", {}, "its weight is computed"),
    "transposed, grouped": ("4,5,5 | output = ConvTranspose <group=2> (input, w)", {"w": values(4, 2, 3, 3)}, "it has groups"),
    "transposed, dilated": (
        "4,5,5 | output = ConvTranspose <dilations=[2,2]> (input, w)", {"w": values(4, 2, 3, 3)}, "it is dilated"),
    "transposed, output padding": (
        "4,5,5 | output = ConvTranspose <strides=[2,2], output_padding=[1,1]> (input, w)",
        {"w": values(4, 2, 2, 2)}, "beyond its filters"),
    "ceil mode": ("3,7,7 | output = MaxPool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1> (input)", {}, "ceil_mode"),
    "pool with odd padding": (
        "3,8,8 | output = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (input)", {}, "no equal there"),
    "dilated pool": ("3,8,8 | output = MaxPool <kernel_shape=[2,2], dilations=[2,2]> (input)", {}, "it is dilated"),
    "elu of another alpha": ("5 | output = Elu <alpha=0.5> (input)", {}, "its alpha is 0.5"),
    "softmax over height": ("3,4,4 | output = Softmax <axis=2> (input)", {}, "only the channels'"),
    "edge padding": ('3,4 | output = Pad <mode="edge"> (input, p)', {"p": np.array([0, 0, 1, 0, 0, 1])}, "mode 'edge'"),
    "linear resize": ('3,4,4 | output = Resize <mode="linear"> (input, , f)', {"f": np.array([1, 1, 2, 2], np.float32)}, "mode 'linear'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_by_name(name: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    from export.tflite.writer import write_tflite

    text, tensors, reason = REFUSED[name]
    net = inference_graph(parsed(text, tensors)).net
    with pytest.raises(UsageError, match=reason):
        write_tflite(net, {})


def test_the_net_is_not_changed_by_writing() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    from export.tflite.writer import write_tflite

    net = inference_graph(parsed("3,4,4 | h = Conv (input, w) output = Relu (h)", {"w": values(4, 3, 2, 2)})).net
    first = write_tflite(net, {"a": b"1"})
    assert [layer.op for layer in net.layers] == ["Conv", "Relu"]
    assert write_tflite(net, {"a": b"1"}) == first
