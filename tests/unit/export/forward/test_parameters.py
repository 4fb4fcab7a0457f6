"""The parameter table says of every initializer what its use makes of it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from device_runtime.wire.errors import UsageError
from export.forward.parameters import initial_params, parameter_table
from export.models.zoo import build_model


def small_model(body: str, tensors: dict[str, np.ndarray], output: str = "float[batch, 4]") -> onnx.ModelProto:
    """A model of the given node lines, reading `input` [batch, 3, 4]."""
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[batch, 3, 4] input) => '
    model: onnx.ModelProto = parser.parse_model(f"{head}({output} output) {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    return model


def roles(model: onnx.ModelProto) -> dict[str, tuple[str, bool]]:
    return {p.name: (p.role, p.prunable) for p in parameter_table(model)}


def test_zoo_roles_by_name() -> None:
    kinds = {"weight": "weight", "bias": "bias", "running_mean": "statistic", "running_var": "statistic"}
    for p in parameter_table(build_model("resnet8", (3, 8, 8), 10, seed=1)):
        layer, kind = p.name.rsplit(".", 1)
        is_norm = layer.rsplit(".", 1)[-1].startswith("bn") and kind in ("weight", "bias")
        assert p.role == ("norm" if is_norm else kinds[kind])
        assert p.prunable == (p.role == "weight")


def test_a_weight_is_recognised_behind_a_transpose() -> None:
    model = small_model(
        "t = Transpose<perm = [1, 0]>(w) y = MatMul(input, t) output = Add(y, b)",
        {"w": np.ones((5, 4), np.float32), "b": np.ones(5, np.float32)},
        "float[batch, 3, 5]",
    )
    assert roles(model) == {"w": ("weight", True), "b": ("bias", False)}


def test_layer_normalisation_scales_are_norms_and_single_numbers_are_constants() -> None:
    model = small_model(
        "z = LayerNormalization(input, s, b) h = Mul(z, half) output = MatMul(h, w)",
        {
            "s": np.ones(4, np.float32),
            "b": np.zeros(4, np.float32),
            "half": np.full(1, 0.5, np.float32),
            "w": np.ones((4, 2), np.float32),
        },
    )
    assert roles(model) == {"s": ("norm", False), "b": ("norm", False), "w": ("weight", True)}


def test_a_tied_weight_is_one_prunable_parameter() -> None:
    model = small_model("a = MatMul(input, w) b = Relu(a) output = MatMul(b, w)", {"w": np.ones((4, 4), np.float32)})
    assert roles(model) == {"w": ("weight", True)}


def test_vectors_are_not_prunable() -> None:
    model = small_model("output = MatMul(input, w)", {"w": np.ones(4, np.float32)}, "float[batch, 3]")
    assert roles(model) == {"w": ("weight", False)}


def test_integers_and_unused_tensors_are_constants() -> None:
    model = small_model(
        "r = Reshape(input, to) output = MatMul(r, w)",
        {"to": np.array([-1, 12]), "w": np.ones((12, 4), np.float32), "unused": np.ones(3, np.float32)},
    )
    assert list(roles(model)) == ["w"]


def test_initial_values_come_in_table_order_as_float32() -> None:
    model = build_model("resnet8", (3, 8, 8), 10, seed=1)
    params = initial_params(model)
    assert list(params) == [p.name for p in parameter_table(model)]
    assert {v.dtype for v in params.values()} == {np.dtype(np.float32)}
    assert all(params[p.name].shape == p.shape for p in parameter_table(model))
    assert np.all(params["bn1.running_var"] == 1)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"parameter 'w' is DOUBLE: export the model in float32"):
        parameter_table(small_model("output = MatMul(input, w)", {"w": np.ones((4, 4))}))
    with pytest.raises(UsageError, match="no parameter to train"):
        parameter_table(small_model("output = Relu(input)", {}))
    long = "w" * 201
    with pytest.raises(UsageError, match="201 bytes"):
        parameter_table(small_model(f"output = MatMul(input, {long})", {long: np.ones((4, 4), np.float32)}))
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 0])
    empty = numpy_helper.from_array(np.ones((3, 0), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["input", "w"], ["output"])], "g", [value], [result], [empty])
    with pytest.raises(UsageError, match="none empty"):
        parameter_table(helper.make_model(graph))
