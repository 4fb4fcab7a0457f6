"""A builder of forward ONNX graphs whose nodes and tensors carry readable names and reproducible initial values."""

import math
from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from device_runtime.wire.draws import Draws
from device_runtime.wire.support import FloatArray
from export.forward.form import BATCH, BATCH_NORM_MOMENTUM, INPUT, IR_VERSION, OPSET, OUTPUT
from export.forward.model import ForwardModel

BATCH_NORM_EPSILON = 1e-5

Shape = tuple[int, ...]


class ShapeMismatchError(Exception):
    """A layer does not fit the shape it is given: no element would be left, or the number of axes is wrong."""


class GraphBuilder:
    """Adds one layer per call; every call returns the name of its output, which the next call takes.

    input_shape: the shape of one sample. seed: parameters are drawn from
    `Draws(seed, "initial", <parameter name>)`, so the same seed gives the same bits whatever is built around them.
    Drawing waits until `model`, so that a graph that turns out not to fit costs nothing.
    """

    def __init__(self, input_shape: Shape, seed: int) -> None:
        self.input = INPUT
        self._shapes: dict[str, Shape] = {INPUT: input_shape}
        self._seed = seed
        self._nodes: list[NodeProto] = []
        self._initial: dict[str, Callable[[], FloatArray]] = {}
        self.parameter_count = 0

    def shape(self, value: str) -> Shape:
        """The shape of one sample of `value`."""
        return self._shapes[value]

    def conv(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """A convolution over all axes behind the channels (1-D for [C, L], 2-D for [C, H, W])."""
        in_channels, *size = self._shapes[x]
        self._needs_space(name, size)
        weight = (channels, in_channels // groups, *[kernel] * len(size))
        fan_in = math.prod(weight[1:])
        inputs = [x, self._uniform(f"{name}.weight", weight, math.sqrt(6.0 / fan_in))]
        if bias:
            inputs.append(self._uniform(f"{name}.bias", (channels,), math.sqrt(1.0 / fan_in)))
        out = [_window(name, n, kernel, stride, padding) for n in size]
        attributes = _window_attributes(len(size), kernel, stride, padding) | {"group": groups}
        return self._node("Conv", name, inputs, (channels, *out), **attributes)

    def max_pool(self, x: str, name: str, kernel: int, *, stride: int) -> str:
        """The maximum over windows, without padding."""
        channels, *size = self._shapes[x]
        self._needs_space(name, size)
        out = [_window(name, n, kernel, stride, 0) for n in size]
        return self._node("MaxPool", name, [x], (channels, *out), **_window_attributes(len(size), kernel, stride, 0))

    def global_average_pool(self, x: str, name: str) -> str:
        """The mean over all axes behind the channels, flattened to [C]."""
        channels, *size = self._shapes[x]
        self._needs_space(name, size)
        return self.flatten(self._node("GlobalAveragePool", name, [x], (channels, *[1] * len(size))), f"{name}.flatten")

    def batch_norm(self, x: str, name: str) -> str:
        """Batch normalisation by running statistics (the evaluation form; `forward.modes` makes the training form)."""
        channels = self._shapes[x][:1]
        inputs = [
            x,
            self._constant(f"{name}.weight", channels, 1.0),
            self._constant(f"{name}.bias", channels, 0.0),
            self._constant(f"{name}.running_mean", channels, 0.0),
            self._constant(f"{name}.running_var", channels, 1.0),
        ]
        attributes = {"epsilon": BATCH_NORM_EPSILON, "momentum": BATCH_NORM_MOMENTUM}
        return self._node("BatchNormalization", name, inputs, self._shapes[x], **attributes)

    def linear(self, x: str, name: str, features: int, *, gain: float = 6.0) -> str:
        """A fully connected layer with bias: weight [features, inputs], drawn from U(±sqrt(gain / inputs))."""
        (fan_in,) = self._shapes[x]
        weight = self._uniform(f"{name}.weight", (features, fan_in), math.sqrt(gain / fan_in))
        bias = self._uniform(f"{name}.bias", (features,), math.sqrt(1.0 / fan_in))
        return self._node("Gemm", name, [x, weight, bias], (features,), transB=1)

    def logits(self, x: str, name: str, class_count: int) -> str:
        """The output layer: fully connected, and small at first, so that training starts from an even guess."""
        return self.linear(x, name, class_count, gain=1.0)

    def flatten(self, x: str, name: str = "flatten") -> str:
        """All axes but the batch as one."""
        return self._node("Flatten", name, [x], (math.prod(self._shapes[x]),), axis=1)

    def relu(self, x: str, name: str) -> str:
        """max(x, 0)."""
        return self._node("Relu", name, [x], self._shapes[x])

    def add(self, x: str, y: str, name: str) -> str:
        """The sum of two values of one shape."""
        assert self._shapes[x] == self._shapes[y]
        return self._node("Add", name, [x, y], self._shapes[x])

    def softmax(self, x: str, name: str) -> str:
        """Softmax over the last axis."""
        return self._node("Softmax", name, [x], self._shapes[x], axis=-1)

    def model(self, result: str, name: str) -> ForwardModel:
        """The finished model: float32 `input` [batch, ...] to float32 `output` [batch, ...], opset 17, IR version 8."""
        last = self._nodes[-1]
        assert last.output[0] == result, "the result of a model is the output of its last layer"
        last.output[0] = OUTPUT
        signature = [
            helper.make_tensor_value_info(value, TensorProto.FLOAT, [BATCH, *shape])
            for value, shape in ((INPUT, self._shapes[INPUT]), (OUTPUT, self._shapes[result]))
        ]
        initializers = [numpy_helper.from_array(draw(), parameter) for parameter, draw in self._initial.items()]
        graph = helper.make_graph(self._nodes, name, signature[:1], signature[1:], initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="espalier")
        return ForwardModel(made)

    def _node(self, op: str, name: str, inputs: list[str], shape: Shape, **attributes: int | float | list[int]) -> str:
        output = f"{name}.output"
        assert output not in self._shapes, f"two layers are called {name!r}"
        node = helper.make_node(op, inputs, [output], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        self._shapes[output] = shape
        return output

    def _uniform(self, name: str, shape: Shape, bound: float) -> str:
        """U(±bound).

        Weights have bound sqrt(6 / fan_in) (He et al., ICCV 2015, for ReLU), biases sqrt(1 / fan_in). torch's default,
        sqrt(1 / fan_in) for weights too, starves a network of which pruning has taken most inputs: the demo ends a
        point lower with it.
        """

        def draw() -> FloatArray:
            u = Draws(self._seed, "initial", name).uniform(math.prod(shape))
            return ((2.0 * u - 1.0) * bound).astype(np.float32).reshape(shape)

        self._initial[name] = draw
        self.parameter_count += math.prod(shape)
        return name

    def _constant(self, name: str, shape: Shape, value: float) -> str:
        self._initial[name] = lambda: np.full(shape, value, dtype=np.float32)
        self.parameter_count += math.prod(shape)
        return name

    def _needs_space(self, name: str, size: list[int]) -> None:
        if not size:
            raise ShapeMismatchError(f"layer {name!r} needs an axis behind the channels")


def _window(name: str, length: int, kernel: int, stride: int, padding: int) -> int:
    """How many windows of `kernel` fit into `length`."""
    count = (length + 2 * padding - kernel) // stride + 1
    if length + 2 * padding < kernel:
        raise ShapeMismatchError(f"layer {name!r} needs {kernel - 2 * padding} elements per axis and gets {length}")
    return count


def _window_attributes(axes: int, kernel: int, stride: int, padding: int) -> dict[str, int | list[int]]:
    return {"kernel_shape": [kernel] * axes, "strides": [stride] * axes, "pads": [padding] * (2 * axes)}
