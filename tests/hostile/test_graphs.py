"""No bytes of a graph do more than raise RemoteWireError, and what is accepted, onnx's own reader sees the same way."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from device_runtime.guard.onnx_graph import Graph, read_graph
from device_runtime.wire import limits
from device_runtime.wire.errors import RemoteWireError
from tests.fakes import QUICK
from tests.unit.export.test_operators import as_onnx_reads_it


def small_model() -> onnx.ModelProto:
    """A model with every kind of message that is accepted, and little in each."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    raw = helper.make_tensor("r", TensorProto.INT64, [1], (7).to_bytes(8, "little"), raw=True)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Concat", ["h", "h"], ["c"], axis=1, domain="ai.onnx"),
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("", TensorProto.INT64, [2], [3, 4])),
        helper.make_node("Odd", ["c"], ["y"], domain="com.example", scales=[0.5, 2.0], pads=[1, 2], mode="linear"),
    ]
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2])
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2]), sequence],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight, raw], value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")


MODEL = small_model()
DATA = MODEL.SerializeToString()


def test_a_small_model_is_read() -> None:
    assert read_graph(DATA) == Graph(
        operators=frozenset({("", "MatMul"), ("", "Concat"), ("", "Constant"), ("com.example", "Odd")}),
        declared=(("w", (2, 2)), ("r", (1,)), ("x", (None, 2)), ("s", (2,))),
    )


# --- any bytes -----------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    for end in range(len(DATA)):
        refused(DATA[:end])


def test_every_flipped_bit_is_refused_or_read_as_onnx_reads_it() -> None:
    data = bytearray(DATA)
    for index in range(len(data)):
        for bit in range(8):
            data[index] ^= 1 << bit
            refused_or_true(bytes(data))
            data[index] ^= 1 << bit


@QUICK
@given(st.data())
def test_mutated_bytes_are_refused_or_read_as_onnx_reads_them(data) -> None:
    mutated = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    refused_or_true(bytes(mutated))


@QUICK
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data) -> None:
    refused(data)


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(RemoteWireError, match=match):
        read_graph(data)


def refused_or_true(data: bytes) -> None:
    """What the guard accepts is what the runtime would see, as far as onnx takes it at all."""
    try:
        graph = read_graph(data)
    except RemoteWireError:
        return
    try:
        model = onnx.load_from_string(data)
    except Exception:  # noqa: BLE001  # protobuf's own errors: nobody can open it, so it does no harm
        return
    assert (graph.operators, dict(graph.declared)) == as_onnx_reads_it(model)


# --- bytes that lie ------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A number in the fewest bytes."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes | int, *, length: int | None = None) -> bytes:
    """A field of bytes, whose length may be given as another, or of a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content) if length is None else length) + content


OPSET = field(8, field(2, 17))


def model_of(graph: bytes) -> bytes:
    """A model with the bytes of a graph."""
    return field(7, graph) + OPSET


def node_of(*parts: bytes) -> bytes:
    """A model with one node of these fields."""
    return model_of(field(1, b"".join(parts)))


def tensor_of(*parts: bytes) -> bytes:
    """A model with one initialiser of these fields."""
    return model_of(field(5, b"".join(parts)))


ONE = field(2, 1) + field(9, bytes(4))  # a float, and four bytes of it

LIES = {
    "nothing": (b"", "holds no graph"),
    "no operator set": (field(7, b""), "holds no graph"),
    "a length beyond the end": (field(7, b"", length=1) + OPSET, "ends in the middle|unknown|another kind"),
    "a length of 2^63": (field(7, b"", length=2**63), "ends in the middle"),
    "a length without an end": (b"\x3a" + b"\xff" * 11, "number without an end"),
    "a length of more than 64 bits": (b"\x3a" + b"\xff" * 9 + b"\x7f", "number without an end"),
    "field 0": (b"\x00\x00", "field 0 that is unknown"),
    "a field of no ONNX version": (model_of(field(99, b"")), "field 99 that is unknown"),
    "a field number beyond 32 bits": (varint((7 << 3 | 2) + 2**35) + b"\x00", "unknown here"),
    "a group": (b"\x3b\x3c" + OPSET, "another kind"),
    "a number where bytes belong": (field(7, 1), "another kind"),
    "a graph that is said twice": (field(7, b"") + model_of(b""), "says graph twice"),
    "an operator that is said twice": (node_of(field(4, b"Relu"), field(4, b"Loop")), "says op_type twice"),
    "a name that is no text": (node_of(field(4, b"\xff\xfe")), "no text"),
    "a name without bounds": (node_of(field(4, b"R" * 201)), "201 bytes"),
    "values fewer than the shape": (tensor_of(field(1, 2), ONE), "another number of values"),
    "values more than the shape": (tensor_of(field(1, 1), field(2, 1), field(9, bytes(8))), "another number of values"),
    "values that end in the middle": (tensor_of(field(1, 1), field(2, 1), field(9, bytes(3))), "another number"),
    "values without a type": (tensor_of(field(1, 1), field(9, bytes(4))), "type 0"),
    "a type beyond 32 bits": (tensor_of(field(1, 1), field(2, 2**32 + 1), field(9, bytes(4))), "type 4294967297"),
    "values in two fields": (tensor_of(field(1, 1), ONE, field(4, bytes(4))), "values twice"),
    "packed floats cut short": (tensor_of(field(1, 1), field(2, 1), field(4, bytes(3))), "ends in the middle"),
    "packed numbers cut short": (tensor_of(field(1, 1), field(2, 7), field(7, b"\x80")), "number without an end"),
    "a negative size": (tensor_of(field(1, 2**64 - 1), ONE), "beyond every limit"),
    "a size of terabytes": (tensor_of(field(1, 2**40), field(2, 1)), "beyond every limit"),
    "sizes whose product is terabytes": (tensor_of(field(1, varint(2**20) * 2), field(2, 1)), "beyond every limit"),
    "packed dimensions without bounds": (tensor_of(field(1, b"\x01" * 9), ONE), "more than 8 numbers"),
    "dimensions without bounds": (tensor_of(field(1, 1) * 9, ONE), "beyond every limit"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), LIES.values(), ids=LIES.keys())
def test_bytes_that_lie_are_refused_with_a_reason(data: bytes, says: str) -> None:
    refused(data, says)


def test_more_fields_than_the_limit_are_refused() -> None:
    refused(model_of(field(1, b"") * (limits.GRAPH_FIELD_COUNT_MAX + 1)), "more parts than the limit")


def test_depth_costs_nothing() -> None:
    """Types within types, as deep as bytes allow, are refused at the second."""
    type_ = b""
    for _ in range(20_000):
        type_ = field(4, field(1, type_))
    refused(model_of(field(11, field(2, type_))), "unknown here")


# --- graphs that reach out, or run for ever --------------------------------------------------------------------------


def changed(change) -> bytes:
    """The small model after a change."""
    model = small_model()
    change(model, model.graph)
    return model.SerializeToString()


def outside(tensor: TensorProto) -> None:
    """Let a tensor's values lie in another file."""
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere.bin")


def with_branch(graph: onnx.GraphProto, operator: str) -> None:
    """Append a node that holds a graph."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [])
    graph.node.append(helper.make_node(operator, ["x"], ["z"], body=branch))


FORGED = {
    "values in another file": (lambda _, g: outside(g.initializer[0]), "data outside its file"),
    "an attribute in another file": (lambda _, g: outside(g.node[2].attribute[0].t), "data outside its file"),
    "a place elsewhere, without saying where": (
        lambda _, g: setattr(g.initializer[0], "data_location", TensorProto.EXTERNAL), "data outside its file",
    ),
    "a loop": (lambda _, g: with_branch(g, "Loop"), "a graph within a node"),
    "a graph in an operator of another name": (lambda _, g: with_branch(g, "MatMul"), "a graph within a node"),
    "several graphs": (
        lambda _, g: g.node[0].attribute.append(helper.make_attribute("bodies", [onnx.GraphProto()])), "within a node",
    ),
    "a function": (
        lambda m, _: m.functions.append(helper.make_function("com.example", "Odd", ["a"], ["b"], [], [])), "of its own",
    ),
    "an overload": (lambda _, g: setattr(g.node[0], "overload", "mine"), "only functions"),
    "training_info": (lambda m, _: m.training_info.add(), "training_info"),
    "a sparse initialiser": (lambda _, g: g.sparse_initializer.add(), "a sparse tensor"),
    "texts": (lambda _, g: g.initializer[0].string_data.append(b"text"), "a tensor of texts"),
    "a map": (lambda _, g: g.input.add(name="m").type.map_type.SetInParent(), "neither a plain tensor"),
    "an optional": (lambda _, g: g.input.add(name="o").type.optional_type.SetInParent(), "neither a plain tensor"),
    "quantisation": (lambda _, g: g.quantization_annotation.add(), "is quantised"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FORGED.values(), ids=FORGED.keys())
def test_what_no_train_step_has_is_refused_for_every_engine(change, says: str) -> None:
    refused(changed(change), says)


def test_a_model_in_the_runtime_s_own_format_is_refused_even_where_it_is_one_of_onnx_too() -> None:
    """onnxruntime goes by four bytes in the file, whatever its name: here they lie in a name that ONNX ignores."""
    both = field(2, b"\x00\x00ORTM") + DATA.replace(field(2, b"tests"), b"")
    assert both[4:8] == b"ORTM"
    onnx.load_from_string(both)
    refused(both, "onnxruntime's own format")
