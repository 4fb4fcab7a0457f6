"""What holds for every geometry: costs count multiply-adds, masks select, and the named smallest input fits."""

import math

import numpy as np
import onnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.forward.costs import cost_table
from export.forward.masking import with_masks
from export.forward.parameters import initial_params, parameter_table
from export.forward.values import forward_with
from export.models.zoo import MODELS, build_model

SIZES = st.integers(1, 3)


def one_node(
    op: str, data: tuple[int, ...], weight: tuple[int, ...], data_first: bool = True, **attributes: object
) -> onnx.ModelProto:
    """A model of one contraction over ones; `data` is the sample's shape behind a batch axis."""
    operands = ["input", "w"] if data_first else ["w", "input"]
    node = helper.make_node(op, operands, ["output"], name="node", **attributes)
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *data])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    ones = numpy_helper.from_array(np.ones(weight, np.float32), "w")
    graph = helper.make_graph([node], "g", [value], [result], [ones])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def multiply_adds(model: onnx.ModelProto, data: tuple[int, ...]) -> int:
    """Over ones and without padding every term of every sum is 1, so the outputs add up to the count of terms."""
    (output,) = ReferenceEvaluator(model).run(None, {"input": np.ones((1, *data), np.float32)})
    return int(output.sum())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_costs_of_convolutions_count_every_multiply_add(data: st.DataObject) -> None:
    axes, groups = data.draw(st.integers(1, 2)), data.draw(SIZES)
    inner, outer = data.draw(SIZES), data.draw(SIZES)
    kernel = [data.draw(SIZES) for _ in range(axes)]
    strides, dilations = [data.draw(SIZES) for _ in range(axes)], [data.draw(st.integers(1, 2)) for _ in range(axes)]
    size = [data.draw(st.integers(1, 8)) for _ in range(axes)]
    assume(all(n >= d * (k - 1) + 1 for n, d, k in zip(size, dilations, kernel, strict=True)))
    shape = (groups * inner, *size)
    model = one_node(
        "Conv", shape, (groups * outer, inner, *kernel), group=groups, strides=strides, dilations=dilations
    )
    (row,) = cost_table(model)
    assert row.flops_forward == row.flops_backward_weight == 2 * multiply_adds(model, shape)
    assert row.flops_backward_input == 0


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(1, 5), st.integers(1, 5))
def test_costs_of_transposed_convolutions_count_every_multiply_add(
    inner: int, outer: int, kernel: int, height: int, width: int
) -> None:
    shape = (inner, height, width)
    model = one_node("ConvTranspose", shape, (inner, outer, kernel, kernel), strides=[2, 1])
    assert cost_table(model)[0].flops_forward == 2 * multiply_adds(model, shape)


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, st.booleans())
def test_costs_of_gemm_count_every_multiply_add(inner: int, outer: int, transposed: bool) -> None:
    weight = (outer, inner) if transposed else (inner, outer)
    model = one_node("Gemm", (inner,), weight, transB=int(transposed))
    assert cost_table(model)[0].flops_forward == 2 * multiply_adds(model, (inner,))


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, SIZES, st.booleans())
def test_costs_of_matmul_count_every_multiply_add(rows: int, inner: int, outer: int, data_first: bool) -> None:
    shape = (rows, inner) if data_first else (inner, outer)
    weight = (inner, outer) if data_first else (rows, inner)
    model = one_node("MatMul", shape, weight, data_first)
    assert cost_table(model)[0].flops_forward == 2 * multiply_adds(model, shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_masked_model_equals_the_model_with_zeros(seed: int, kept: float) -> None:
    model = build_model("lenet5", (1, 16, 16), 3, seed=seed)
    rng = np.random.default_rng(seed)
    params = initial_params(model)
    masks = {p.name: rng.random(p.shape) < kept for p in parameter_table(model) if p.prunable}
    masked = with_masks(model.proto, list(masks))
    for tensor in masked.graph.initializer:
        name = tensor.name.removesuffix(".mask")
        if tensor.name != name and name in masks:
            tensor.CopyFrom(numpy_helper.from_array(masks[name].astype(np.float32), tensor.name))
    zeroed = forward_with(model, {name: np.where(mask, params[name], np.float32(0)) for name, mask in masks.items()})
    x = {"input": rng.normal(size=(2, 1, 16, 16)).astype(np.float32)}
    assert np.array_equal(ReferenceEvaluator(masked).run(None, x)[0], ReferenceEvaluator(zeroed.proto).run(None, x)[0])


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([n for n in MODELS if n != "mlp"]), st.integers(1, 2), st.integers(1, 20), st.integers(1, 20))
def test_an_input_fits_or_the_named_smallest_does(name: str, channels: int, height: int, width: int) -> None:
    shape = (channels, height, width)[: MODELS[name].axis_count]
    try:
        model = build_model(name, shape, 3, seed=0)
    except UsageError as error:
        smallest = tuple(int(n) for n in str(error).rpartition(" ")[2].split("x"))
        assert any(n < least for n, least in zip(shape, smallest, strict=True))
        model, shape = build_model(name, smallest, 3, seed=0), smallest
    assert math.prod(cost.flops_forward for cost in model.costs) > 0
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert tuple(d.dim_value for d in dims[1:]) == shape
