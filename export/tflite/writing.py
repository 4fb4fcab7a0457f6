"""The pen that operators are written with: values as kept tensors, operators appended one by one, refusals by name."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from device_runtime.wire.errors import UsageError
from export.deploy.net import Array, Layer, Net, Shape
from export.tflite.flatbuffer import FlatGraph
from export.tflite.layouts import (
    from_stored_permutation,
    is_plain,
    stored_array,
    stored_shape,
    to_stored_permutation,
)


class Pen:
    """Writes one net. `shapes` are ONNX's for a batch of one; `tensors` gives the kept tensor of every value.

    `flattened[value]` is (channels, positions) where a flattened value is kept positions first, because all its
    readers are fully connected layers whose weight is permuted instead.
    """

    def __init__(self, net: Net, shapes: Mapping[str, Shape]) -> None:
        self.net = net
        self.shapes = shapes
        self.flat = FlatGraph(net.name)
        self.tensors: dict[str, int] = {}
        self.flattened: dict[str, tuple[int, int]] = {}

    def shape(self, layer: Layer, value: str) -> Shape:
        """ONNX's shape of a value. Raises UsageError where it is not known."""
        if value not in self.shapes:
            refuse(layer, f"the shape of {value!r} cannot be inferred")
        return self.shapes[value]

    def tensor(self, layer: Layer, position: int = 0) -> int:
        """The kept tensor of an input; a constant is kept to fit the output's number of axes."""
        value = layer.inputs[position]
        if value in self.tensors:
            return self.tensors[value]
        rank = max(len(self.shape(layer, layer.output)), self.net.constants[value].ndim)
        return self.constant(value, stored_array(self.net.constants[value], rank))

    def constant(self, name: str, array: Array) -> int:
        """A constant tensor, float64 as float32."""
        return self.flat.constant(name, array.astype(np.float32) if array.dtype == np.float64 else array)

    def integers(self, name: str, values: Sequence[int] | Array) -> int:
        """A constant of int32."""
        return self.flat.constant(name, np.asarray(values, dtype=np.int32))

    def emit(
        self,
        code: str,
        inputs: Sequence[int],
        shape: Shape,
        layer: Layer,
        options: tuple[str, Mapping[str, Any]] | None = None,
        version: int = 1,
    ) -> int:
        """Append an operator with one output of the kept shape `shape`; gives its tensor."""
        output = self.flat.value(f"{layer.name}/{code.lower()}", shape)
        self.flat.operator(code, inputs, [output], options, version)
        return output

    def choice(self, enumeration: str, name: str) -> int:
        """The number of a name in an enumeration of the schema."""
        return self.flat.choice(enumeration, name)

    def activation(self, layer: Layer) -> int:
        """The activation fused into a layer."""
        return self.choice("ActivationFunctionType", layer.text("activation", "NONE"))

    def reshape(self, tensor: int, shape: Shape, layer: Layer) -> int:
        """The same elements in the kept shape `shape`."""
        target = self.integers(f"{layer.name}/shape", shape)
        return self.emit("RESHAPE", [tensor, target], shape, layer, ("ReshapeOptions", {"newShape": list(shape)}))

    def transpose(self, tensor: int, shape: Shape, permutation: Sequence[int], layer: Layer) -> int:
        """A tensor of the kept shape `shape` with its axes permuted."""
        order = self.integers(f"{layer.name}/permutation", list(permutation))
        result = tuple(shape[axis] for axis in permutation)
        return self.emit("TRANSPOSE", [tensor, order], result, layer, ("TransposeOptions", {}))

    def rearrange(self, tensor: int, source: Shape, target: Shape, layer: Layer) -> int:
        """ONNX's Reshape from `source` to `target` on kept tensors, by transposing only where the order differs."""
        same_channels = len(source) in (3, 4) and len(target) in (3, 4) and source[:2] == target[:2]
        if same_channels or (is_plain(source) and is_plain(target)):
            return self.reshape(tensor, stored_shape(target), layer)
        if not is_plain(source):
            tensor = self._as_onnx(tensor, source, layer)
        if is_plain(target):
            return self.reshape(tensor, stored_shape(target), layer)
        tensor = self.reshape(tensor, target, layer)
        moved = self.transpose(tensor, target, to_stored_permutation(len(target)), layer)
        return moved if len(target) == 4 else self.reshape(moved, stored_shape(target), layer)

    def _as_onnx(self, tensor: int, shape: Shape, layer: Layer) -> int:
        kept = stored_shape(shape)
        if len(shape) == 3:
            kept = (kept[0], *kept[2:])
            tensor = self.reshape(tensor, kept, layer)
        return self.transpose(tensor, kept, from_stored_permutation(len(shape)), layer)


def refuse(layer: Layer, reason: str) -> NoReturn:
    """Refuse to write a layer, by its name."""
    raise UsageError(
        f"node {layer.name!r} ({layer.op}) cannot be written as TFLite: {reason}; "
        "change the model there, or export it as ONNX"
    )
