"""Inspection counts what is in a file, whoever wrote it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from device_runtime.wire.errors import UsageError
from export.deploy.inspection import inspect_file
from export.forward.model import ForwardModel
from export.models.zoo import build_model
from tests.unit.export.conftest import SMALL_MODELS
from tests.unit.export.deploy.conftest import pruned
from tests.unit.export.tflite.conftest import parsed


def saved(model: ForwardModel, tmp_path: Path) -> Path:
    onnx.save(model.proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_flops_and_parameters_are_those_of_the_cost_table(name: str, tmp_path: Path) -> None:
    shape = {"mlp": (1, 8, 8), "cnn1d": (6, 32)}.get(name, (1, 20, 20))
    model = build_model(name, shape, 4, seed=1)
    found = inspect_file(saved(model, tmp_path))
    assert found.flops_dense == found.flops_executed == sum(row.flops_forward for row in model.costs)
    assert found.parameters == sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    assert found.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert 0 < found.compressed_bytes < found.file_bytes
    assert (found.version, found.ir_version) == (17, 8)


def test_zeros_are_counted_by_layer(tmp_path: Path) -> None:
    weight = np.array([[0, 0, 3], [4, 0, 0]], np.float32)
    text = "3 | output = Gemm <transB=1> (input, w, b)"
    found = inspect_file(saved(parsed(text, {"w": weight, "b": np.ones(2, np.float32)}), tmp_path))
    (layer,) = found.layers
    assert (layer.parameters, layer.zeros, layer.dtype) == (8, 4, "float32")
    assert (layer.flops_dense, layer.flops_ideal) == (12, 4)
    assert layer.sparsity == 0.5
    assert layer.shape == (1, 2)
    assert found.sparsity == 0.5


def test_sparsity_is_near_what_was_pruned(tmp_path: Path) -> None:
    found = inspect_file(saved(pruned(build_model("cnn", (3, 16, 16), 4, seed=1), 0.9), tmp_path))
    assert 0.89 < found.sparsity < 0.91
    assert 0.08 < found.flops_ideal / found.flops_dense < 0.12


def test_shapes_and_bounds_are_no_parameters(tmp_path: Path) -> None:
    text = "4,2 | a = Reshape (input, s) output = Clip (a, lo)"
    model = parsed(text, {"s": np.array([0, 2, 4]), "lo": np.array(0, np.float32)})
    found = inspect_file(saved(model, tmp_path))
    assert found.parameters == 0
    assert found.dtypes == {"int64": 24, "float32": 4}


def test_a_shape_that_cannot_be_known_is_unknown_not_zero(tmp_path: Path) -> None:
    model = parsed("3,4,4 | output = Conv (input, w)", {"w": np.ones((2, 3, 3, 3), np.float32)})
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param = "height"
    found = inspect_file(saved(model, tmp_path))
    assert found.flops_dense == 0
    assert found.flops_unknown == ("Conv -> output",)
    assert found.layers[0].shape is None


def test_quantised_graphs_are_read_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.quantization")
    from export.deploy.int8_onnx import quantise_onnx

    model = build_model("lenet5", (1, 28, 28), 10, seed=1)
    x = np.random.default_rng(0).standard_normal((8, 1, 28, 28)).astype(np.float32)
    found = inspect_file(saved(ForwardModel(quantise_onnx(model.proto, x)), tmp_path))
    assert found.parameters == 61_706
    assert found.flops_dense == 833_040
    assert {layer.dtype for layer in found.layers if layer.flops_dense} == {"int8"}
    assert found.dtypes["int8"] >= 61_470


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x08\x08", b"\0" * 4 + b"TFL3" + b"\xff" * 40])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    if content[4:8] == b"TFL3":
        pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UsageError, match=r"neither a valid ONNX|malformed"):
        inspect_file(tmp_path / "m")
    with pytest.raises(UsageError, match="cannot be read"):
        inspect_file(tmp_path / "missing")


def test_the_record_is_json(tmp_path: Path) -> None:
    import msgspec

    found = inspect_file(saved(build_model("mlp", (4,), 2, seed=1), tmp_path))
    record = json.loads(msgspec.json.encode(found))
    assert record["layers"][1]["op"] == "Gemm"
    assert record["provenance"] is None
