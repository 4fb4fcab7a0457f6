"""onnxruntime's trace: what is read, and which layer each node is joined to, traps included."""

import json

import msgspec
import pytest

from device_runtime.engines.portable.traced import place_of
from device_runtime.engines.trace import LayerNames, Node, Place, read_trace
from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Parameter
from tests.fakes import manifest


def event(name, us, op="Gemm", shapes=None, **more):
    arguments = {"op_name": op, "input_type_shape": shapes or [], "output_type_shape": [{"float": [2, 3]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": arguments} | more


def test_durations_of_every_step_and_bytes_of_the_shapes():
    shapes = [{"float": [4, 3]}, {"int64": [5]}, {"bool": [7]}, {"unheard_of": [9]}]
    text = json.dumps(
        [
            {"cat": "Session", "name": "model_run", "dur": 99},
            {"cat": "Node", "name": "fc1_fence_before", "dur": 1, "args": {}},
            event("fc1", 10, shapes=shapes),
            event("relu", 2, op="Relu"),
            event("fc1", 12, shapes=shapes),
        ]
    )
    first, second = read_trace(text)
    assert (first.name, first.op, first.durations_us) == ("fc1", "Gemm", (10, 12))
    assert first.tensor_bytes == 4 * 12 + 8 * 5 + 7 + 4 * 6
    assert second.durations_us == (2,)


def test_a_release_that_gives_no_shapes_gives_no_bytes():
    assert read_trace(json.dumps([{"cat": "Node", "name": "a_kernel_time", "dur": 1}]))[0].tensor_bytes == 0


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"cat": "Node", "name": "a_kernel_time"}]'])
def test_a_trace_that_is_none_is_refused(text):
    with pytest.raises(EngineError, match="trace cannot be read"):
        read_trace(text)


LAYERS = ["conv1", "layer1.0.conv1", "fc1", "/block/fc/MatMul", "/block/fc"]
MASKED = ["conv1", "layer1.0.conv1", "fc1"]


def layer_names():
    """A model of these layers, the first three of them with a mask."""
    costs = tuple(
        NodeCost(
            node=n, op="Gemm", weight=f"{n}.weight", weight_count=1, flops_forward=2, flops_backward_input=2,
            flops_backward_weight=2,
        )
        for n in LAYERS
    )  # fmt: skip
    parameters = tuple(Parameter(name=f"{n}.weight", shape=(1,), role="weight", prunable=n in MASKED) for n in LAYERS)
    return LayerNames(msgspec.structs.replace(manifest(), costs=costs, parameters=parameters))


@pytest.mark.parametrize(
    ("name", "op", "layer", "part"),
    [
        ("conv1", "FusedConv", "conv1", "forward"),
        ("fused fc1", "FusedGemm", "fc1", "forward"),
        ("conv1_token_3", "Conv", "conv1", "forward"),
        ("conv1_nchwc", "Conv", "conv1", "forward"),
        ("relu1", "Relu", "relu1", "forward"),
        ("gradient/conv1/Reshape_25", "Reshape", "conv1", "backward"),
        ("gradient/conv1/MatMul/MatmulTransposeFusion/", "FusedMatMul", "conv1", "backward"),
        ("gradient/layer1.0.conv1/ConvTranspose", "ConvTranspose", "layer1.0.conv1", "backward"),
        ("gradient/pool2/Resize_nchwc", "Upsample", "pool2", "backward"),
        ("gradient//block/fc/MatMul/MatMul_1", "MatMul", "/block/fc/MatMul", "backward"),
        ("/block/fc/MatMul", "MatMul", "/block/fc/MatMul", "forward"),
        ("mask/Where", "Where", "conv1", "masking"),
        ("mask/Where_2", "Where", "fc1", "masking"),
        ("gradient/mask/Where_1/Mul", "Mul", "layer1.0.conv1", "masking"),
        ("gradient/mask/Where/Cast", "Cast", "conv1", "masking"),
        ("mask/Where_9", "Where", "", "masking"),
        ("loss/LogSoftmax", "LogSoftmax", "", "loss"),
        ("optimizer/Mul_9", "Mul", "", "optimizer"),
        ("statistics/Add", "Add", "", "statistics"),
        ("ReorderInput_token_3", "ReorderInput", "", "layout"),
        ("ReorderOutput", "ReorderOutput", "", "layout"),
    ],
)
def test_a_node_is_joined_by_its_name(name, op, layer, part):
    assert place_of(Node(name, op, (1,), 0), layer_names()) == Place(layer, part)


def test_a_node_that_ran_less_often_is_averaged_over_all():
    assert Node("a", "Op", (4, 6), 0).mean_us([0, 1, 2, 3]) == 5.0
