"""An ONNX file of any export is brought into the one form, or refused in one sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.forward.modes import training_form
from export.models.onnx_import import import_onnx
from export.models.zoo import build_model


def saved(tmp_path: Path, text: str, tensors: dict[str, np.ndarray] | None = None) -> Path:
    model = parser.parse_model(text)
    tensors = tensors or {}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_zoo_model_comes_back_equal(tmp_path: Path) -> None:
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    onnx.save(model.proto, tmp_path / "m.onnx")
    back = import_onnx(tmp_path / "m.onnx")
    assert back == model
    onnx.save(training_form(model.proto), tmp_path / "m.onnx")
    assert import_onnx(tmp_path / "m.onnx") == model


def test_names_batch_and_version_are_brought_into_form(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """<ir_version: 11, opset_import: ["": 17]> g (float[1, 4] x, float[4, 3] w) => (float[1, 3] y)
        { output = MatMul(x, w) y = Relu(output) }""",
        {"w": np.ones((4, 3), np.float32)},
    )
    model = import_onnx(path)
    onnx.checker.check_model(model.proto, full_check=True)
    assert ([i.name for i in model.graph.input], [o.name for o in model.graph.output]) == (["input"], ["output"])
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.ir_version == 10
    (result,) = ReferenceEvaluator(model.proto).run(None, {"input": np.ones((2, 4), np.float32)})
    assert result.tolist() == [[4.0] * 3] * 2


def test_weights_in_constant_nodes_become_initializers(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """<ir_version: 8, opset_import: ["": 17]> g (float[n, 2] x) => (float[n, 1] y)
        { w = Constant<value = float[2, 1] {1, 2}>() y = MatMul(x, w) }""",
    )
    assert {k: v.tolist() for k, v in import_onnx(path).initial.items()} == {"w": [[1.0], [2.0]]}


def test_an_old_opset_is_converted(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """<ir_version: 6, opset_import: ["": 11]> g (float[n, 4] x) => (float[n, 3] y) { y = Gemm(x, w, b) }""",
        {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)},
    )
    model = import_onnx(path)
    assert model.opset == 17
    assert list(model.initial) == ["w", "b"]


@pytest.mark.parametrize(
    ("signature", "body", "text"),
    [
        ("(float[n, 4] x, float[n, 4] z) => (float[n, 4] y)", "y = Add(x, z)", "2 inputs and 1 outputs"),
        ("(float[n, 4] x) => (float[n, 4] y, float[n, 4] z)", "y = Relu(x) z = Exp(x)", "1 inputs and 2 outputs"),
        ("(int64[n, 4] x) => (int64[n, 4] y)", "y = Neg(x)", "must be float32"),
        ("(float[n] x) => (float[n] y)", "y = Neg(x)", "batch axis in front"),
        (
            "(float[1, 4] x) => (float[1, 4] y)",
            "to = Constant<value = int64[2] {1, 4}>() y = Reshape(x, to)",
            "fixes the batch to 1",
        ),
    ],
)
def test_unfit_models_are_refused(tmp_path: Path, signature: str, body: str, text: str) -> None:
    path = saved(tmp_path, f'<ir_version: 8, opset_import: ["": 17]> g {signature} {{ {body} }}')
    with pytest.raises(UsageError, match=text):
        import_onnx(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        import_onnx(tmp_path / "missing.onnx")
    for content in (b"", b"hello", bytes(range(256))):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UsageError, match="not a valid ONNX model"):
            import_onnx(tmp_path / "bad.onnx")
