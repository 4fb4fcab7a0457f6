"""What a train step promises beyond its gradients: names, masks, states, batch sizes, opsets, and clear refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser, version_converter

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Optimizer, State, mask_name
from export.forward.parameters import initial_params
from export.gradients import registry
from export.gradients.errors import GradientError
from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Tape
from export.models.onnx_import import import_onnx
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from export.train_step import train_step

pytest.importorskip("onnxruntime")
SGD = choose_optimizer("sgd")


def _batch(shape: tuple[int, ...], count: int = 6, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, classes, count)


def _parsed(body: str, weights: dict[str, tuple[int, ...]], *, version: int = 17, shape: str = "8") -> ModelProto:
    """A forward model from onnx's text form, with random weights."""
    head = f'<ir_version: 8, opset_import: ["" : {version}, "own" : 1]>'
    model = parser.parse_model(f"{head} g (float[batch, {shape}] input) => (float[batch, 4] output) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, size in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name))
    return model


def test_inputs_and_outputs_are_the_contract() -> None:
    model = build_model("resnet8", (3, 16, 16), 4, seed=1)
    optimizer = Optimizer(name="adamw", proximal_mu=0.1)
    step = train_step(model, loss="cross_entropy", optimizer=optimizer)
    names = list(initial_params(model))
    trained = [p.name for p in step.parameters if p.role != "statistic"]
    prunable = [mask_name(p.name) for p in step.parameters if p.prunable]
    inputs = [i.name for i in step.train.graph.input]
    assert inputs[: 3 + len(names)] == ["input", "labels", "learning_rate", *names]
    expected = {*prunable, *(f"{n}.anchor" for n in trained), *(s.name for s in step.states)}
    assert set(inputs[3 + len(names) :]) == expected
    assert step.states[0] == State(name="optimizer.step", shape=())
    assert len(step.states) == 1 + 2 * len(trained)
    outputs = [o.name for o in step.train.graph.output]
    assert outputs == ["loss", "correct", *(f"{n}.next" for n in names), *(f"{s.name}.next" for s in step.states)]
    assert [i.name for i in step.evaluate.graph.input] == ["input", "labels", *names]
    assert [o.name for o in step.evaluate.graph.output] == ["loss", "correct", "output"]
    for graph in (step.train, step.evaluate):
        assert graph.ir_version <= 10
        assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        assert {node.domain for node in graph.graph.node} == {""}
        assert all(len(t.raw_data) < 70_000 for t in graph.graph.initializer)
        read = {v for node in graph.graph.node for v in node.input} | {o.name for o in graph.graph.output}
        assert all(any(v in read for v in node.output) for node in graph.graph.node)
        assert {t.name for t in graph.graph.initializer} <= read
        onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)


def test_any_batch_size_and_the_correct_count(stepper: Callable[..., Any]) -> None:
    ours = stepper(build_model("cnn1d", (3, 32), 4, seed=1), SGD)
    for count in (1, 2, 7, 33):
        x, y = _batch((3, 32), count)
        evaluated = ours.eval(x, y)
        assert evaluated["output"].shape == (count, 4)
        hits = int((evaluated["output"].argmax(1) == y).sum())
        result = ours.run(x, y, 0.01)
        assert evaluated["correct"] == result["correct"] == hits
        assert result["loss"] == pytest.approx(float(evaluated["loss"]), rel=1e-5)


def test_the_callers_arrays_stay_as_they_are(stepper: Callable[..., Any]) -> None:
    ours = stepper(build_model("resnet8", (3, 16, 16), 4, seed=1), choose_optimizer("sgd", momentum=0.9))
    given = ours.values
    copies = {name: value.copy() for name, value in given.items()}
    ours.run(*_batch((3, 16, 16)), 0.1)
    for name, value in given.items():
        np.testing.assert_array_equal(value, copies[name], err_msg=name)


@pytest.mark.parametrize("version", [15, 16, 17, 18, 19, 20, 21])
@pytest.mark.parametrize("name", ["resnet8", "lenet5", "cifar10net"])
def test_every_opset_in_range_gives_the_same_step(name: str, version: int, stepper: Callable[..., Any]) -> None:
    model = build_model(name, (3, 20, 20), 4, seed=1)
    x, y = _batch((3, 20, 20))
    expected = stepper(model, SGD).run(x, y, 0.1)
    if version < 17:
        other = ModelProto()
        other.CopyFrom(model.proto)
        other.opset_import[0].version = version
    else:
        other = version_converter.convert_version(model.proto, version)
    ours = stepper(other, SGD)
    assert ours.step.train.opset_import[0].version == max(17, version)
    found = ours.run(x, y, 0.1)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_only_the_chosen_parameters_train(stepper: Callable[..., Any]) -> None:
    model = build_model("lenet5", (1, 28, 28), 4, seed=1)
    ours = stepper(model, choose_optimizer("adamw"), trainable=["fc3.weight", "fc3.bias"])
    assert [s.name for s in ours.step.states] == [
        "optimizer.step",
        *(f"fc3.{p}.moment{i}" for p in ("weight", "bias") for i in (1, 2)),
    ]
    # Nothing in front of what is trained is differentiated.
    assert not any(node.name.startswith("gradient/conv") for node in ours.step.train.graph.node)
    before = dict(ours.values)
    ours.run(*_batch((1, 28, 28)), 0.1)
    changed = {name for name in initial_params(model) if (ours.values[name] != before[name]).any()}
    assert changed == {"fc3.weight", "fc3.bias"}


def test_a_tied_weight_gets_the_sum_of_its_gradients(stepper: Callable[..., Any]) -> None:
    tied = _parsed(
        "a = MatMul(input, w) b = Tanh(a) c = MatMul(b, w) output = MatMul(c, v)", {"w": (8, 8), "v": (8, 4)}
    )
    apart = _parsed(
        "a = MatMul(input, w) b = Tanh(a) c = MatMul(b, u) output = MatMul(c, v)",
        {"w": (8, 8), "v": (8, 4), "u": (8, 8)},
    )
    first, second = stepper(tied, SGD), stepper(apart, SGD)
    second.values["u"] = second.values["w"]
    x, y = _batch((8,))
    one, two = first.run(x, y, 1.0), second.run(x, y, 1.0)
    w = initial_params(tied)["w"]
    np.testing.assert_allclose(one["w.next"] - w, (two["w.next"] - w) + (two["u.next"] - w), atol=1e-5)


def test_accumulating_halves_equals_the_whole(stepper: Callable[..., Any]) -> None:
    model = build_model("lenet5", (1, 28, 28), 4, seed=1)
    optimizer = choose_optimizer("adamw", weight_decay=0.1)
    whole, halves = stepper(model, optimizer), stepper(model, optimizer, accumulation=2)
    for start in range(3):
        x, y = _batch((1, 28, 28), 8 + 2 * start)
        half = len(x) // 2
        before = dict(halves.values)
        halves.run(x[:half], y[:half], 0.01)
        for name in initial_params(model):
            np.testing.assert_array_equal(halves.values[name], before[name])
        halves.run(x[half:], y[half:], 0.01)
        whole.run(x, y, 0.01)
        for name, value in whole.values.items():
            np.testing.assert_allclose(halves.values[name], value, atol=2e-5, err_msg=name)


def test_a_model_that_uses_the_steps_names_inside_makes_way(stepper: Callable[..., Any]) -> None:
    model = _parsed(
        "loss = MatMul(input, w) labels = Relu(loss) output = MatMul(labels, v)", {"w": (8, 8), "v": (8, 4)}
    )
    first = stepper(model, SGD).run(*_batch((8,)), 0.1)["loss"]
    plain = _parsed("a = MatMul(input, w) b = Relu(a) output = MatMul(b, v)", {"w": (8, 8), "v": (8, 4)})
    assert first == stepper(plain, SGD).run(*_batch((8,)), 0.1)["loss"]


def test_a_file_from_the_wild_trains_as_documented(tmp_path: Path) -> None:
    import onnxruntime

    text = """<ir_version: 7, opset_import: ["" : 13]> net (float[N, 2, 6, 6] image) => (float[N, 3] score) {
        c = Conv <pads = [1, 1, 1, 1]> (image, kernel)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)
        score = Gemm <transB = 1> (f, dense, shift) }"""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("kernel", (5, 2, 3, 3)), ("dense", (3, 5)), ("shift", (3,))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    onnx.save(model, tmp_path / "wild.onnx")

    forward = import_onnx(tmp_path / "wild.onnx")
    step = train_step(forward, loss="cross_entropy", optimizer=choose_optimizer("sgd", momentum=0.9))
    session = onnxruntime.InferenceSession(step.train.SerializeToString(), providers=["CPUExecutionProvider"])
    values: dict[str, Any] = initial_params(forward) | {s.name: np.zeros(s.shape, s.dtype) for s in step.states}
    masks = {mask_name(p.name): np.ones(p.shape, bool) for p in step.parameters if p.prunable}
    x, y = rng.normal(size=(16, 2, 6, 6)).astype(np.float32), rng.integers(0, 3, 16)
    losses = []
    for _ in range(40):
        feed = {"input": x, "labels": y, "learning_rate": np.array(0.1, np.float32)}
        loss, _, *following = session.run(None, feed | values | masks)
        values = dict(zip(values, following, strict=True))
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    model = _parsed("a = MatMul(input, w) output = CumSum(a, axis)", {"w": (8, 4)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    model.graph.node[1].name = "awkward"
    with pytest.raises(GradientError, match=r"node 'awkward' \(CumSum\) has no gradient rule: replace it") as caught:
        train_step(model, loss="mse", optimizer=SGD)
    assert (caught.value.node, caught.value.operator) == ("awkward", "CumSum")


def test_a_refused_operator_that_nothing_trained_feeds_does_not_matter() -> None:
    model = _parsed("a = CumSum(input, axis) output = MatMul(a, w)", {"w": (8, 4)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    assert train_step(model, loss="mse", optimizer=SGD).parameters[0].name == "w"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            'a = MatMul(input, w) p = Constant <value_ints = [0, 1, 0, 1]> () output = Pad <mode = "reflect"> (a, p)',
            "reflect",
        ),
        (
            "a = MatMul(input, w) t = Transpose <perm = [1, 0]> (a) s = MatMul(a, t) r = MatMul(s, a) output = Relu(r)",
            None,
        ),
    ],
)
def test_what_a_rule_does_not_take_is_refused(body: str, reason: str | None) -> None:
    model = _parsed(body, {"w": (8, 4)})
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    if reason is None:
        train_step(model, loss="mse", optimizer=SGD)  # a product over the batch axis is fine
        return
    with pytest.raises(GradientError, match=reason):
        train_step(model, loss="mse", optimizer=SGD)


def test_ranges_are_checked() -> None:
    model = build_model("mlp", (8,), 4, seed=1)
    with pytest.raises(UsageError, match="no parameter 'nonsense' to train"):
        train_step(model, loss="mse", optimizer=SGD, trainable=["nonsense"])
    with pytest.raises(UsageError, match="no loss 'hinge'"):
        train_step(model, loss="hinge", optimizer=SGD)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="accumulated over 0"):
        train_step(model, loss="mse", optimizer=SGD, accumulation=0)
    model.proto.opset_import[0].version = 22
    with pytest.raises(UsageError, match="opset 22: export it with opset 17 to 21"):
        train_step(model, loss="mse", optimizer=SGD)


def test_cross_entropy_wants_one_row_of_classes() -> None:
    model = _parsed("output = MatMul(input, w)", {"w": (8, 4)}, shape="3, 8")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match=r"\[batch, classes\], and the model gives \['batch', 3, 4\]"):
        train_step(model, loss="cross_entropy", optimizer=SGD)


def test_an_open_axis_behind_the_batch_is_refused() -> None:
    model = _parsed(
        "p = ReduceMean <axes = [1], keepdims = 0> (input) output = MatMul(p, w)", {"w": (8, 4)}, shape="length, 8"
    )
    with pytest.raises(UsageError, match="axis 1 of the input 'input' is open"):
        train_step(model, loss="mse", optimizer=SGD)


def test_a_rule_for_an_operator_of_another_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    model = _parsed("a = MatMul(input, w) b = own.Twice(a) output = Relu(b)", {"w": (8, 4)})
    with pytest.raises(GradientError, match=r"Twice.*whose shape cannot be resolved.*value_info"):
        train_step(model, loss="mse", optimizer=SGD)
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 4]))
    with pytest.raises(GradientError, match=r"\(Twice\) has no gradient rule"):
        train_step(model, loss="mse", optimizer=SGD)

    @rule("Twice", domain="own")
    def twice(tape: Tape, node: Applied) -> Gradients:
        return [tape.op("Mul", node.gradient, 2.0)]

    step = train_step(model, loss="mse", optimizer=SGD)
    assert [node.name for node in step.train.graph.node if node.name.startswith("gradient/b/")] == ["gradient/b/Mul"]
