"""The tape: appends nodes to a graph, names them, knows the shapes of forward values and folds constants as it goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from export.gradients.errors import GradientError
from export.gradients.folding import evaluate

Dim = int | str
Operand = ir.Value | np.ndarray | float | int | Sequence[int] | None

# Results that do not have the type of the first input.
_INTEGERS = frozenset({"Shape", "Size", "ArgMax"})
_TRUTHS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"})
# Reductions whose axes became an input in opset 18 (ReduceSum's did in 13).
_AXES_INPUT_SINCE = 18
# Constants larger than this are not folded: the graph would grow for a computation that costs nothing.
_FOLDED_ELEMENTS_MAX = 1 << 16


class Tape:
    """Appends nodes to `graph`, whose own values have the shapes in `shapes`.

    An axis is an integer, or a text that is the same for axes of the same length (`batch`, `4*batch`).
    """

    def __init__(self, graph: ir.Graph, shapes: Mapping[str, tuple[Dim, ...]]) -> None:
        self.graph = graph
        self.scope = "gradient"
        self._shapes = dict(shapes)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._made: dict[tuple[object, ...], ir.Value] = {}
        self._names = {v.name for v in graph.inputs} | set(graph.initializers)
        self._names |= {v.name for node in graph for v in node.outputs}

    @property
    def opset(self) -> int:
        """The version of the standard operators the graph uses."""
        return int(self.graph.opset_imports[""])

    def op(self, op_type: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """The output of a new node, or a constant where every input is one.

        Operands may be numbers (scalars of the first value's type), lists of integers (int64) and arrays. The same
        call gives the same value again.
        """
        inputs = self._operands(operands)
        key = (op_type, *map(id, inputs), *sorted((k, repr(v)) for k, v in attributes.items()))
        if key not in self._made:
            self._made[key] = self._fold(op_type, inputs, attributes) or self._append(op_type, inputs, attributes, 1)[0]
        return self._made[key]

    def ops(self, op_type: str, count: int, *operands: Operand, **attributes: Any) -> tuple[ir.Value, ...]:
        """The `count` outputs of a new node."""
        return self._append(op_type, self._operands(operands), attributes, count)

    def foreign(
        self,
        domain: str,
        op_type: str,
        operands: Sequence[ir.Value | None],
        shapes: Sequence[tuple[Dim, ...]],
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """The outputs of a new node of another domain, one for each shape, of the first input's type."""
        values = self._append(op_type, operands, attributes, len(shapes), domain)
        self.graph.opset_imports[domain] = 1
        for value, shape in zip(values, shapes, strict=True):
            value.shape = ir.Shape(list(shape))
            self.declare(value, shape)
        return values

    def reduce(self, op_type: str, x: ir.Value, axes: Sequence[int], *, keepdims: bool) -> ir.Value:
        """A reduction over `axes`, in the form the opset has; over no axes it is `x`."""
        if not axes:
            return x
        if op_type == "ReduceSum" or self.opset >= _AXES_INPUT_SINCE:
            return self.op(op_type, x, list(axes), keepdims=int(keepdims))
        return self.op(op_type, x, axes=list(axes), keepdims=int(keepdims))

    def constant(self, array: np.ndarray) -> ir.Value:
        """A constant of the graph, shared with every equal one."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh("constant")
            value = ir.val(name, const_value=ir.tensor(array, name=name))
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def shape(self, value: ir.Value) -> tuple[Dim, ...]:
        """The shape of a forward value, of a constant, or of a gradient once it is declared.

        Raises GradientError, naming the node that makes the value, where inference could not find it.
        """
        if value.name in self._shapes:
            return self._shapes[value.name]
        if value.const_value is not None:
            return tuple(value.const_value.numpy().shape)
        raise self._unresolved(value)

    def shape_by_name(self, name: str) -> tuple[Dim, ...]:
        """The shape of the value that has, or had, this name; an unknown one is a scalar nobody asks for."""
        return self._shapes.get(name, ())

    def declare(self, value: ir.Value, shape: tuple[Dim, ...]) -> None:
        """Note the shape of a value that was added."""
        assert value.name is not None
        self._shapes.setdefault(value.name, shape)

    def redeclare(self, value: ir.Value, shape: tuple[Dim, ...]) -> None:
        """Note the shape of a value that takes the place of one of the same name."""
        assert value.name is not None
        self._shapes[value.name] = shape

    def known(self, value: ir.Value | None) -> np.ndarray | None:
        """The elements of a constant, None for any other value."""
        return None if value is None or value.const_value is None else value.const_value.numpy()

    def reshape_like(self, x: ir.Value, like: ir.Value) -> ir.Value:
        """`x` in the shape of `like`, by constants where at most one axis is open."""
        shape = self.shape(like)
        if sum(isinstance(n, str) for n in shape) <= 1 and 0 not in shape:
            return self.op("Reshape", x, [-1 if isinstance(n, str) else n for n in shape])
        return self.op("Reshape", x, self.op("Shape", like))

    def cast_like(self, x: ir.Value, like: ir.Value) -> ir.Value:
        """`x` in the type of `like`."""
        assert like.dtype is not None
        return x if x.dtype == like.dtype else self.op("Cast", x, to=int(like.dtype))

    def fresh(self, stem: str) -> str:
        """A name that no value of the graph has."""
        count = 0
        name = f"{self.scope}/{stem}"
        while name in self._names:
            count += 1
            name = f"{self.scope}/{stem}_{count}"
        self._names.add(name)
        return name

    def _unresolved(self, value: ir.Value) -> GradientError:
        """The error about the first node before `value` with which inference could do nothing."""
        node = value.producer()
        assert node is not None, f"input {value.name!r} has no shape"
        for before in node.inputs:
            if before is not None and before.producer() is not None and before.name not in self._shapes:
                return self._unresolved(before)
        return GradientError(
            node,
            f"makes {value.name!r}, whose shape cannot be resolved",
            "export the model with fixed sizes for every axis but the batch, or note the shape in value_info",
        )

    def _operands(self, operands: Sequence[Operand]) -> list[ir.Value | None]:
        values = [v for v in operands if isinstance(v, ir.Value)]
        # A condition has no say in the type of the numbers it chooses from.
        like = next((v for v in values if v.dtype != ir.DataType.BOOL), None)
        return [self._operand(operand, like) for operand in operands]

    def _operand(self, operand: Operand, like: ir.Value | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        if isinstance(operand, Sequence):
            return self.constant(np.array(operand, dtype=np.int64))
        assert like is not None, "a number needs a value whose type it takes"
        assert like.dtype is not None, f"the type of {like.name!r} is unknown"
        return self.constant(np.array(operand, dtype=like.dtype.numpy()))

    def _fold(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> ir.Value | None:
        if any(v is not None and v.const_value is None for v in inputs) or not inputs:
            return None
        arrays = [None if v is None else self.known(v) for v in inputs]
        if any(a is not None and a.size > _FOLDED_ELEMENTS_MAX for a in arrays):
            return None
        return self.constant(evaluate(op_type, arrays, attributes, self.opset))

    def _append(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any],
        count: int,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        name = self.fresh(op_type)
        kept = {key: value for key, value in attributes.items() if value is not None}
        node = ir.Node(domain, op_type, inputs, ir.convenience.convert_attributes(kept), num_outputs=count, name=name)
        for i, value in enumerate(node.outputs):
            value.name = name if i == 0 else self.fresh(f"{op_type}.{i}")
            kind = _result_type(op_type, inputs, kept)
            if kind is not None:
                value.dtype = kind
        self.graph.append(node)
        return tuple(node.outputs)


def _result_type(op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> ir.DataType | None:
    if op_type == "Cast":
        return ir.DataType(attributes["to"])
    if op_type in _INTEGERS:
        return ir.DataType.INT64
    if op_type in _TRUTHS:
        return ir.DataType.BOOL
    if op_type == "ConstantOfShape":
        return ir.DataType(attributes["value"].dtype)
    source = inputs[1] if op_type == "Where" else inputs[0]
    return None if source is None else source.dtype
