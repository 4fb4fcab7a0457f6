"""An ONNX graph as far as a device must know it before a runtime opens it: its operators, and the sizes it declares."""

import math
from dataclasses import dataclass

from device_runtime.guard.onnx_messages import (
    ATTRIBUTE,
    DATA,
    DIMENSION,
    ELEMENT_TYPE,
    GRAPH,
    ITEM_BYTES,
    MODEL,
    NODE,
    OUTSIDE,
    SEQUENCE_TYPE,
    TENSOR,
    TENSOR_SHAPE,
    TENSOR_TYPE,
    TYPE,
    VALUE,
)
from device_runtime.guard.protobuf import Reader, Value, count_numbers, text, varints
from device_runtime.wire import limits
from device_runtime.wire.errors import RemoteWireError

Shape = tuple[int | None, ...]

# Models in onnxruntime's own format, which it knows by these bytes whatever the file is called.
_RUNTIME_FORMAT = (slice(4, 8), b"ORTM")


@dataclass(frozen=True, slots=True)
class Graph:
    """What a graph is made of: (domain, operator) of its nodes, and the shapes of its inputs and initialisers."""

    operators: frozenset[tuple[str, str]]
    declared: tuple[tuple[str, Shape], ...]


def read_graph(data: bytes) -> Graph:
    """The graph of a model's bytes.

    Raises RemoteWireError for bytes that are no model, for more than the limits, and for what is refused whatever the
    engine; its text follows the name of the file.
    """
    where, mark = _RUNTIME_FORMAT
    if data[where] == mark:
        raise RemoteWireError("it is a model in onnxruntime's own format, which is not read here")
    reader = Reader(limits.GRAPH_FIELD_COUNT_MAX)
    parts = dict(reader.fields(memoryview(data), MODEL))
    if not {"graph", "opset_import"} <= parts.keys():
        raise RemoteWireError("it holds no graph, or does not say for which operators")
    return _graph(reader, _bytes(parts["graph"]))


def _graph(reader: Reader, data: memoryview) -> Graph:
    operators: set[tuple[str, str]] = set()
    declared: list[tuple[str, Shape]] = []
    for name, value in reader.fields(data, GRAPH):
        if name == "node":
            operators.add(_node(reader, _bytes(value)))
        elif name == "initializer":
            declared.append(_tensor(reader, _bytes(value)))
        elif name == "input":
            declared.append(_described(reader, _bytes(value)))
        elif name in ("output", "value_info"):
            _described(reader, _bytes(value))
    return Graph(frozenset(operators), tuple(declared))


def _node(reader: Reader, data: memoryview) -> tuple[str, str]:
    said = {"domain": "", "op_type": "", "overload": ""}
    for name, value in reader.fields(data, NODE):
        if name in said:
            said[name] = text(value, limits.OPERATOR_NAME_BYTES_MAX)
        elif name == "attribute":
            _attribute(reader, _bytes(value))
    if said["overload"]:
        raise RemoteWireError("it calls an operator by an overload, which only functions have")
    return "" if said["domain"] == "ai.onnx" else said["domain"], said["op_type"]


def _attribute(reader: Reader, data: memoryview) -> None:
    for name, value in reader.fields(data, ATTRIBUTE):
        if name in ("t", "tensors"):
            _tensor(reader, _bytes(value))


def _tensor(reader: Reader, data: memoryview) -> tuple[str, Shape]:
    """Name and shape of a tensor that holds as many values as it declares."""
    name, kind = "", 0
    dims: list[int] = []
    held: dict[str, list[Value]] = {}
    for field, value in reader.fields(data, TENSOR):
        if field == "dims":
            dims += varints(value, limits.TENSOR_DIMS_MAX)
        elif field == "data_type":
            kind = _number(value)
        elif field == "name":
            name = text(value, limits.VALUE_NAME_BYTES_MAX)
        elif field == "data_location" and value:
            raise RemoteWireError(f"it {OUTSIDE}")
        elif field in DATA:
            held.setdefault(field, []).append(value)
    shape = _checked(name, dims)
    if kind not in ITEM_BYTES:
        raise RemoteWireError(f"it holds a tensor of type {kind}, which is no plain number")
    if math.prod(dims) != _count(held, ITEM_BYTES[kind]):
        raise RemoteWireError(f"its tensor {name!r} holds another number of values than its shape {shape} declares")
    return name, shape


def _count(held: dict[str, list[Value]], item_bytes: int) -> int:
    """How many values a tensor's data hold, whichever field they are in."""
    if len(held) > 1:
        raise RemoteWireError("it holds a tensor's values twice")
    for field, values in held.items():
        if field == "raw_data":
            size = len(_bytes(values[0]))
            return size // item_bytes if size % item_bytes == 0 else -1
        return sum(count_numbers(value, DATA[field]) for value in values)
    return 0


def _described(reader: Reader, data: memoryview) -> tuple[str, Shape]:
    """Name and shape of an input, an output or a value in between; a size that only a batch gives is None."""
    name = ""
    shape: list[int | None] = []
    for field, value in reader.fields(data, VALUE):
        if field == "name":
            name = text(value, limits.VALUE_NAME_BYTES_MAX)
        elif field == "type":
            shape = _type_shape(reader, _bytes(value))
    return name, _checked(name, shape)


def _type_shape(reader: Reader, data: memoryview) -> list[int | None]:
    """The shape of a tensor type; of a sequence the shape of its elements."""
    shape: list[int | None] = []
    for field, value in reader.fields(data, TYPE):
        if field == "tensor_type":
            shape = _tensor_shape(reader, _bytes(value))
        elif field == "sequence_type":
            for _, element in reader.fields(_bytes(value), SEQUENCE_TYPE):
                for inner, type_ in reader.fields(_bytes(element), ELEMENT_TYPE):
                    shape = _tensor_shape(reader, _bytes(type_)) if inner == "tensor_type" else shape
    return shape


def _tensor_shape(reader: Reader, data: memoryview) -> list[int | None]:
    shape: list[int | None] = []
    for field, value in reader.fields(data, TENSOR_TYPE):
        if field == "shape":
            for _, dimension in reader.fields(_bytes(value), TENSOR_SHAPE):
                sizes = [_number(v) for n, v in reader.fields(_bytes(dimension), DIMENSION) if n == "dim_value"]
                shape.append(sizes[0] if sizes else None)
    return shape


def _checked(name: str, shape: list[int] | list[int | None]) -> Shape:
    """The shape. Raises RemoteWireError where no array may be so large."""
    count = math.prod(size for size in shape if size is not None)
    if len(shape) > limits.TENSOR_DIMS_MAX or count > limits.DECODED_BYTES_MAX // 4:
        raise RemoteWireError(f"its value {name[:40]!r} has the shape {tuple(shape)}, beyond every limit"[:300])
    return tuple(shape)


def _bytes(value: Value) -> memoryview:
    assert not isinstance(value, int), "the table says BYTES"
    return value


def _number(value: Value) -> int:
    assert isinstance(value, int), "the table says VARINT"
    return value
