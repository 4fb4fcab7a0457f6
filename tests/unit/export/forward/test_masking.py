"""The mask stands between a weight and every one of its readers."""

import numpy as np
import onnx
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from export.forward.masking import with_masks
from export.forward.parameters import initial_params
from export.models.zoo import build_model


def test_masks_are_ones_of_the_weights_shape_and_change_nothing() -> None:
    model = build_model("lenet5", (1, 28, 28), 4, seed=1).proto
    weights = [name for name in initial_params(model) if name.endswith("weight")]
    masked = with_masks(model, weights)
    onnx.checker.check_model(masked, full_check=True)
    tensors = {t.name: numpy_helper.to_array(t) for t in masked.graph.initializer}
    for weight in weights:
        assert tensors[f"{weight}.mask"].dtype == np.float32
        assert np.array_equal(tensors[f"{weight}.mask"], np.ones_like(tensors[weight]))
    x = {"input": np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32)}
    assert np.array_equal(ReferenceEvaluator(masked).run(None, x)[0], ReferenceEvaluator(model).run(None, x)[0])


def test_every_reader_of_a_tied_weight_reads_the_masked_one() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[batch, 2] input) => (float[batch, 2] output)
        { a = MatMul(input, w) t = Transpose<perm = [1, 0]>(w) output = MatMul(a, t) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "w"))
    masked = with_masks(model, ["w"])
    mask = next(t for t in masked.graph.initializer if t.name == "w.mask")
    mask.CopyFrom(numpy_helper.from_array(np.array([[1, 0], [0, 1]], np.float32), "w.mask"))
    (result,) = ReferenceEvaluator(masked).run(None, {"input": np.ones((1, 2), np.float32)})
    assert result.tolist() == [[1.0, 16.0]]


def test_no_weights_no_change() -> None:
    model = build_model("mlp", (4,), 2, seed=1).proto
    assert with_masks(model, []) == model
