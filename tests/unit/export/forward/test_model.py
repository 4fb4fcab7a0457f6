"""A forward model knows of itself what the rest of `export` asks for, finds it out once, and is taken as onnx's too."""

import numpy as np
import pytest

from export.forward.costs import cost_table
from export.forward.model import ForwardModel
from export.forward.parameters import initial_params, parameter_table
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from export.train_step import train_step


def test_it_says_what_the_graph_says() -> None:
    model = build_model("resnet8", (3, 8, 8), 4, seed=1)
    assert (model.inputs, model.outputs) == ({"input": (3, 8, 8)}, {"output": (4,)})
    assert (model.opset, model.ir_version) == (17, 8)
    assert model.parameters == parameter_table(model.proto)
    assert model.costs == cost_table(model.proto)
    assert model.has_statistics
    assert not build_model("mlp", (4,), 2, seed=1).has_statistics


def test_what_it_knows_is_found_out_once_and_cannot_be_written_over() -> None:
    model = build_model("mlp", (4,), 2, seed=1)
    assert model.parameters is model.parameters
    assert model.costs is model.costs
    assert model.initial is model.initial
    with pytest.raises(ValueError, match="read-only"):
        model.initial["fc1.weight"][0, 0] = 1
    with pytest.raises(TypeError):
        model.initial["fc1.weight"] = np.zeros(1, np.float32)  # type: ignore[index]


def test_a_script_written_for_onnxs_model_goes_on_working() -> None:
    """`initial_params`, `parameter_table` and `train_step` take what an importer gives and onnx's own model alike."""
    model = build_model("mlp", (4,), 2, seed=1)
    for given in (model, model.proto):
        assert parameter_table(given) == model.parameters
        values = initial_params(given)
        assert all(np.array_equal(values[name], value) for name, value in model.initial.items())
        step = train_step(given, loss="cross_entropy", optimizer=choose_optimizer("sgd"))
        assert step.parameters == model.parameters
    assert ForwardModel.of(model) is model
    assert ForwardModel.of(model.proto) == model
