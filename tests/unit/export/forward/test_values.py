"""Parameters as inputs and parameters as given values say the same as the model itself."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.forward.modes import evaluation_form, training_form
from export.forward.values import forward_with, parameterised_forward
from export.models.zoo import build_model

X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


def test_parameters_become_inputs_in_table_order() -> None:
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    free = onnx.load_from_string(parameterised_forward(model))
    onnx.checker.check_model(free, full_check=True)
    assert [i.name for i in free.graph.input] == ["input", *model.initial]
    assert not free.graph.initializer


def test_given_parameters_decide_the_output() -> None:
    model, other = (build_model("resnet8", (3, 8, 8), 4, seed=seed) for seed in (1, 2))
    (expected,) = ReferenceEvaluator(other.proto).run(None, {"input": X})
    values = other.initial
    free = ReferenceEvaluator(onnx.load_from_string(parameterised_forward(model)))
    assert np.array_equal(free.run(None, {"input": X} | values)[0], expected)
    assert np.array_equal(ReferenceEvaluator(forward_with(model, values).proto).run(None, {"input": X})[0], expected)


def test_a_session_evaluates_many_parameter_sets() -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    session = runtime.InferenceSession(parameterised_forward(model))
    for seed in (1, 2):
        values = build_model("resnet8", (3, 8, 8), 4, seed=seed).initial
        (expected,) = ReferenceEvaluator(forward_with(model, values).proto).run(None, {"input": X})
        np.testing.assert_allclose(session.run(None, {"input": X} | values)[0], expected, atol=1e-5)


def test_what_is_left_out_keeps_its_value_and_the_model_is_untouched() -> None:
    model = build_model("mlp", (4,), 2, seed=1)
    before = model.to_bytes()
    filled = forward_with(model, {"fc3.bias": np.ones(2, np.float32)}).initial
    assert np.all(filled["fc3.bias"] == 1)
    assert np.array_equal(filled["fc1.weight"], model.initial["fc1.weight"])
    assert model.to_bytes() == before


def test_wrong_values_are_refused() -> None:
    model = build_model("mlp", (4,), 2, seed=1)
    with pytest.raises(UsageError, match=r"no parameter 'fc9\.bias'"):
        forward_with(model, {"fc9.bias": np.ones(2, np.float32)})
    with pytest.raises(UsageError, match=r"'fc3.bias' has the shape \(2,\), not \(3,\)"):
        forward_with(model, {"fc3.bias": np.ones(3, np.float32)})


def test_the_two_forms_of_batch_normalisation_turn_into_each_other() -> None:
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    training = training_form(model.proto)
    norms = [node for node in training.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 9
    assert all(len(node.output) == 3 for node in norms)
    onnx.checker.check_model(training, full_check=True)
    x = {"input": X}
    expected = ReferenceEvaluator(model.proto).run(None, x)[0]
    assert not np.allclose(ReferenceEvaluator(training).run(None, x)[0], expected)
    assert np.array_equal(ReferenceEvaluator(evaluation_form(training)).run(None, x)[0], expected)
