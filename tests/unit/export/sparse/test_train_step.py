"""A sparse train step gives what the portable one gives: loss, gradients, statistics, every optimizer."""

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_runtime.wire.manifest import Optimizer
from export.models.graph import GraphBuilder
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from export.train_step import train_step
from tests.unit.export.sparse.steps import assert_same, both, feed_of, results

SHAPES = {
    "mlp": (1, 6, 5),
    "lenet5": (1, 16, 17),
    "mnistnet": (1, 15, 16),
    "cifar10net": (3, 16, 15),
    "cnn": (3, 9, 8),
    "resnet8": (3, 9, 8),
    "resnet20": (3, 8, 8),
    "cnn1d": (6, 19),
}


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize(("batch", "density"), [(7, 0.3), (1, 1.0), (33, 0.1), (17, 0.5)])
def test_gradients_of_every_zoo_model_are_those_of_the_portable_step(model: str, batch: int, density: float) -> None:
    graph = build_model(model, SHAPES[model], 5, seed=1)
    if batch == 1 and model.startswith("resnet"):
        pytest.skip("a batch normalisation over one pixel of one image has no gradient to compare")
    assert_same(*both(graph, SHAPES[model], batch=batch, density=density))


OPTIMIZERS = {
    "momentum": Optimizer(momentum=0.9),
    "nesterov and decay": Optimizer(momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": Optimizer(name="adamw", weight_decay=0.01),
    "clipped": Optimizer(clip_norm=0.1),
    "proximal": Optimizer(proximal_mu=0.5, momentum=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_moves_the_kept_weights_as_the_portable_one_does(optimizer: Optimizer) -> None:
    graph = build_model("lenet5", SHAPES["lenet5"], 5, seed=1)
    assert_same(*both(graph, SHAPES["lenet5"], optimizer=optimizer, rate=0.1))


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits", "l1"])
def test_every_loss(loss: str) -> None:
    graph = build_model("mlp", SHAPES["mlp"], 5, seed=1)
    assert_same(*both(graph, SHAPES["mlp"], loss=msgspec.convert(loss, str)))  # type: ignore[arg-type]


def test_masks_with_empty_layers_rows_and_single_weights() -> None:
    graph = build_model("resnet8", SHAPES["resnet8"], 5, seed=1)
    feed = feed_of(graph, SHAPES["resnet8"], 9, 0.5, "cross_entropy", 5)
    names = [n for n, m in feed.masks.items() if m.ndim > 1]
    feed.masks[names[1]][...] = False  # a layer of nothing
    feed.masks[names[2]][...] = False
    feed.masks[names[2]].flat[7] = True  # a layer of one weight
    feed.masks[names[3]][::2] = False  # rows of nothing
    feed.masks[names[4]][:, ::2] = False  # inputs that nobody reads
    rule = choose_optimizer("sgd")
    steps = [train_step(graph, loss="cross_entropy", optimizer=rule, sparse=sparse) for sparse in (False, True)]
    found = [results(s, feed, 1e6, sparse=sparse) for s, sparse in zip(steps, (False, True), strict=True)]
    assert_same(*found, tolerance=1e-4)


def _model(nodes: list, tensors: dict[str, tuple[int, ...]], shape: tuple[int, ...], outputs: int) -> onnx.ModelProto:
    draws = np.random.default_rng(3)
    weights = [numpy_helper.from_array((draws.normal(size=s) * 0.4).astype(np.float32), n) for n, s in tensors.items()]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", outputs])
    graph = helper.make_graph(nodes, "outside", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _node(operator: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=output, **attributes)


FOREIGN = {
    "activations that are not compiled": _model(
        [
            _node("Conv", "input a", "c", pads=[1, 0, 0, 2]),
            _node("Sigmoid", "c", "s"),
            _node("Conv", "s b", "d", strides=[2, 1], dilations=[1, 2], group=2),
            _node("LeakyRelu", "d", "l"),
            _node("GlobalAveragePool", "l", "g"),
            _node("Flatten", "g", "output"),
        ],
        {"a": (4, 3, 3, 3), "b": (6, 2, 2, 2)},
        (3, 8, 9),
        6,
    ),
    "matrix products and a tied, transposed weight": _model(
        [
            _node("MatMul", "input w", "h"),
            _node("Add", "h v", "hv"),
            _node("Relu", "hv", "r"),
            _node("Transpose", "w", "t", perm=[1, 0]),
            _node("MatMul", "r t", "back"),
            _node("Add", "back input", "sum"),
            _node("Gemm", "sum u", "output", transB=1, alpha=2.0),
        ],
        {"w": (6, 9), "v": (9,), "u": (4, 6)},
        (6,),
        4,
    ),
    "branches joined along the channels": _model(
        [
            _node("Conv", "input a", "p", pads=[1, 1, 1, 1]),
            _node("Relu", "p", "pr"),
            _node("Conv", "pr b", "q"),
            _node("Conv", "pr c", "r"),
            _node("Concat", "q r", "qr", axis=1),
            _node("AveragePool", "qr", "ap", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
            _node("Add", "ap ap", "twice"),
            _node("Flatten", "twice", "f"),
            _node("Gemm", "f d", "output"),
        ],
        {"a": (4, 2, 3, 3), "b": (3, 4, 1, 1), "c": (2, 4, 1, 1), "d": (45, 3)},
        (2, 6, 5),
        3,
    ),
    "a sum read twice, with windows of several widths": _model(
        [
            _node("Conv", "input a", "p", pads=[2, 2, 2, 2]),
            _node("Conv", "input b", "q"),
            _node("Add", "p q", "s"),
            _node("Relu", "s", "r"),
            _node("Conv", "r c", "u", pads=[1, 1, 1, 1]),
            _node("Add", "u s", "v"),
            _node("MaxPool", "v", "m", kernel_shape=[2, 2], strides=[1, 1], pads=[1, 1, 0, 0]),
            _node("Relu", "m", "mr"),
            _node("GlobalAveragePool", "mr", "g"),
            _node("Flatten", "g", "output"),
        ],
        {"a": (4, 2, 5, 5), "b": (4, 2, 1, 1), "c": (4, 4, 3, 3)},
        (2, 6, 5),
        4,
    ),
    "a transposed convolution": _model(
        [
            _node("ConvTranspose", "input a", "p", strides=[2, 2]),
            _node("Relu", "p", "r"),
            _node("Conv", "r b", "q"),
            _node("GlobalAveragePool", "q", "g"),
            _node("Flatten", "g", "output"),
        ],
        {"a": (2, 4, 3, 3), "b": (3, 4, 3, 3)},
        (2, 5, 4),
        3,
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_compiled_leaves_the_layout_and_comes_back(name: str) -> None:
    graph = FOREIGN[name]
    shape = tuple(d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim[1:])
    outputs = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    assert_same(*both(graph, shape, outputs=outputs, density=0.6))


def test_a_normalisation_of_a_normalisation_of_a_branch_of_the_input() -> None:
    b = GraphBuilder((2, 5, 6), 1)
    x = b.batch_norm(b.conv(b.input, "conv", 2, 3, padding=1, bias=False), "first")
    x = b.relu(b.add(x, b.input, "sum"), "relu")
    x = b.batch_norm(b.batch_norm(x, "second"), "third")
    model = b.model(b.logits(b.flatten(x), "out", 5), "twice")
    assert_same(*both(model.proto, (2, 5, 6), rate=0.1))  # gradients before a normalisation are little but rounding


def test_convolutions_share_one_pass_with_their_relu_and_normalisations_with_sum_and_relu() -> None:
    step = train_step(
        build_model("resnet8", SHAPES["resnet8"], 5, seed=1),
        loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
        sparse=True,
    )
    counts: dict[str, int] = {}
    for node in step.train.graph.node:
        if node.domain == "espalier":
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert counts["BatchNorm"] == counts["Conv"] == 9
    assert counts["BatchNormGradient"] == counts["ConvValueGradient"] == 9
    assert counts["ConvInputGradient"] == 8
    assert "Relu" not in counts
    assert "ReluGradient" not in counts
