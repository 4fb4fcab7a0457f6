"""The cost table counts what a person counts by hand."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import UsageError
from export.forward.costs import cost_table
from export.models.zoo import build_model


def model_of(signature: str, body: str, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float{signature} input) => (float[batch, n] output) {{ {body} }}'
    )
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    model.graph.initializer.extend(tensors)
    return model


def figures(model: onnx.ModelProto) -> list[tuple[Any, ...]]:
    return [
        (row.op, row.weight, row.flops_forward, row.flops_backward_input, row.flops_backward_weight)
        for row in cost_table(model)
    ]


def test_mnistnet_by_hand() -> None:
    """28x28 -conv5-> 24x24 -pool3s1-> 22x22 -conv5-> 18x18 -pool3s1-> 16x16, 20 channels: 5120 -> 50 -> 10."""
    conv1 = 2 * (24 * 24 * 10) * (1 * 5 * 5)
    conv2 = 2 * (18 * 18 * 20) * (10 * 5 * 5)
    fc1, fc2 = 2 * 5120 * 50, 2 * 50 * 10
    expected = [
        ("conv1", "Conv", 250, conv1, 0),
        ("conv2", "Conv", 5000, conv2, conv2),
        ("fc1", "Gemm", 256000, fc1, fc1),
        ("fc2", "Gemm", 500, fc2, fc2),
    ]
    assert build_model("mnistnet", (1, 28, 28), 10, seed=1).costs == tuple(
        NodeCost(
            node=node,
            op=op,
            weight=f"{node}.weight",
            weight_count=count,
            flops_forward=forward,
            flops_backward_input=backward_input,
            flops_backward_weight=forward,
        )
        for node, op, count, forward, backward_input in expected
    )


def test_grouped_strided_dilated_convolution() -> None:
    body = "output = Conv<group = 2, strides = [2, 2], dilations = [2, 1], pads = [1, 0, 1, 0]>(input, w)"
    model = model_of("[batch, 4, 9, 8]", body, {"w": (6, 2, 3, 3)})
    # Height: 9 + 2 - 5 over stride 2 gives 4; width: 8 - 3 over stride 2 gives 3.
    assert figures(model) == [("Conv", "w", 2 * 6 * 4 * 3 * 2 * 9, 0, 2 * 6 * 4 * 3 * 2 * 9)]


def test_one_dimensional_convolution() -> None:
    model = model_of("[batch, 3, 10]", "output = Conv(input, w)", {"w": (5, 3, 4)})
    assert figures(model) == [("Conv", "w", 2 * 5 * 7 * 3 * 4, 0, 2 * 5 * 7 * 3 * 4)]


def test_transposed_convolution_counts_inputs() -> None:
    model = model_of("[batch, 4, 5]", "output = ConvTranspose<strides = [3], group = 2>(input, w)", {"w": (4, 3, 2)})
    assert figures(model) == [("ConvTranspose", "w", 2 * 4 * 5 * 3 * 2, 0, 2 * 4 * 5 * 3 * 2)]


def test_gemm_in_both_orientations() -> None:
    for attributes, shape in (("", (6, 5)), ("<transB = 1>", (5, 6))):
        model = model_of("[batch, 6]", f"output = Gemm{attributes}(input, w)", {"w": shape})
        assert figures(model) == [("Gemm", "w", 60, 0, 60)]


def test_a_transposed_data_operand_contracts_over_its_first_axis() -> None:
    # B = w'x': the batch is the second axis of the product, and the weight is the transposed first operand.
    body = "x = Transpose<perm = [1, 0]>(input) y = Gemm<transA = 1>(w, x) output = Transpose<perm = [1, 0]>(y)"
    model = model_of("[batch, 6]", body, {"w": (6, 5)})
    assert figures(model) == [("Gemm", "w", 60, 0, 60)]


def test_attention_contracts_two_activations() -> None:
    body = """
        q = MatMul(input, wq) k = MatMul(input, wk) kt = Transpose<perm = [0, 2, 1]>(k)
        s = MatMul(q, kt) output = MatMul(s, input)
    """
    model = model_of("[batch, 7, 4]", body, {"wq": (4, 3), "wk": (4, 3)})
    projection = 2 * 7 * 4 * 3
    scores, mixed = 2 * 7 * 7 * 3, 2 * 7 * 7 * 4
    assert figures(model) == [
        ("MatMul", "wq", projection, 0, projection),
        ("MatMul", "wk", projection, 0, projection),
        ("MatMul", "", scores, 2 * scores, 0),
        ("MatMul", "", mixed, mixed, 0),
    ]


def test_first_layer_behind_a_trained_normalisation_needs_its_input_gradient() -> None:
    shapes = {"s": (4,), "b": (4,), "w": (4, 2)}
    model = model_of("[batch, 4]", "z = LayerNormalization(input, s, b) output = MatMul(z, w)", shapes)
    assert figures(model) == [("MatMul", "w", 16, 16, 16)]


def test_running_statistics_alone_need_no_gradient() -> None:
    rows = build_model("resnet8", (3, 8, 8), 10, seed=1).costs
    assert [row.node for row in rows if row.flops_backward_input == 0] == ["conv1"]


def test_a_reshape_computed_from_the_batch_is_followed() -> None:
    body = """
        s = Shape<start = 0, end = 1>(input) rest = Constant<value = int64[1] {-1}>() to = Concat<axis = 0>(s, rest)
        x = Reshape(input, to) output = MatMul(x, w)
    """
    assert figures(model_of("[batch, 2, 3]", body, {"w": (6, 5)})) == [("MatMul", "w", 60, 0, 60)]


def test_an_open_shape_is_refused_by_node() -> None:
    model = model_of("[batch, c, 5]", "output = Conv(input, w)", {"w": (5, 3, 4)})
    model.graph.node[0].name = "first"
    with pytest.raises(UsageError, match="'input' at node 'first' cannot be inferred"):
        cost_table(model)
