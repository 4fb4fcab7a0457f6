"""What lists execute, counted by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_runtime.wire.cost import flops, sparse
from export.forward.model import ForwardModel
from export.sparse.costs import with_lists
from export.steps.optimizers import choose_optimizer
from export.train_step import train_step


def _model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["input", "a"], ["p"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["p", "b"], ["q"], name="valid"),
        helper.make_node("Conv", ["q", "c"], ["r"], name="strided", strides=[2, 2]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["output"], name="last"),
    ]
    shapes = {"a": (2, 1, 3, 3), "b": (3, 2, 3, 3), "c": (4, 3, 2, 2), "d": (16, 2)}
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 6, 6])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "costs", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_every_place_of_the_input_meets_every_weight_of_its_class() -> None:
    model = ForwardModel.of(_model())
    step = train_step(model, loss="cross_entropy", optimizer=choose_optimizer("sgd"), sparse=True)
    rows = {row.node: row for row in with_lists(model.costs, step.train)}
    assert rows["first"].flops_lists_input == 0, "nothing before it is trained"
    # 6 x 6 places, 3 x 2 channels, 9 taps; by the definition the 4 x 4 places of the output.
    assert rows["valid"].flops_lists_input == 2 * 36 * 6 * 9
    assert rows["valid"].flops_backward_input == 2 * 16 * 6 * 9
    # 4 x 4 places in four classes, each of which meets one of the 4 taps.
    assert rows["strided"].flops_lists_input == 2 * 4 * 12 * 4 == rows["strided"].flops_backward_input
    assert rows["last"].flops_lists_input == 0
    counts = {"a": 9, "b": 18, "c": 48, "d": 8}
    done = flops(rows.values(), counts, sparse, samples=10, steps=1)
    first, strided, last = 2 * 2 * 36 * 9, 3 * 2 * 4 * 48, 3 * 2 * 8
    assert done.executed == 10 * (first + 2 * 18 * (16 + 36 + 16) + strided + last)
    assert done.ideal == 10 * (first + 2 * 18 * 3 * 16 + strided + last)
