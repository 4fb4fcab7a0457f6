"""Two graphs of one node each, written as ONNX bytes by hand: a board has no onnx package to write them with.

Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto, ValueInfoProto).
"""

from collections.abc import Sequence

IR_VERSION = 8
OPSET = 17
FLOAT32 = 1
INTS = 7


def matmul_graph(size: int) -> bytes:
    """c = a · b, all float32[size, size]."""
    square = (size, size)
    return _model(_node("MatMul", ("a", "b")), {"a": square, "b": square}, square)


def conv_graph(channels: int, side: int, kernel: int) -> bytes:
    """c = conv(a, b): float32[1, channels, side, side] by float32[channels, channels, kernel, kernel], same size."""
    image = (1, channels, side, side)
    pads = _attribute("pads", [kernel // 2] * 4)
    return _model(_node("Conv", ("a", "b"), pads), {"a": image, "b": (channels, channels, kernel, kernel)}, image)


def _model(node: bytes, inputs: dict[str, Sequence[int]], output: Sequence[int]) -> bytes:
    graph = _bytes(1, node) + _text(2, "benchmark")
    graph += b"".join(_bytes(11, _value(name, shape)) for name, shape in inputs.items()) + _bytes(
        12, _value("c", output)
    )
    return _integer(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _text(1, "") + _integer(2, OPSET))


def _node(operator: str, inputs: Sequence[str], attribute: bytes = b"") -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, "c") + _text(4, operator) + attribute


def _attribute(name: str, values: Sequence[int]) -> bytes:
    return _bytes(5, _text(1, name) + b"".join(_integer(8, v) for v in values) + _integer(20, INTS))


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _integer(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _integer(1, FLOAT32) + _bytes(2, dims)))


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
