"""The messages of an ONNX file, field by field, as far as an artifact may have them; the rest with why it may not.

From https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Refused for every engine is what reaches beyond the file,
what runs for as long as its data say, and what no train step of ours has: references to other files, graphs within a
node, functions, and all values but plain tensors of numbers and sequences of them.
"""

from device_runtime.guard.protobuf import Field, Message, Wire

_NUMBER, _REAL, _DOUBLE = Wire.VARINT, Wire.FIXED32, Wire.FIXED64


def _no(name: str, why: str) -> Field:
    return Field(name, refused=why)


def _many(name: str, wire: Wire = Wire.BYTES) -> Field:
    return Field(name, wire, repeated=True)


_TEXT_PAIRS = _many("metadata_props")
_SUBGRAPH = "holds a graph within a node, which could run for ever"
_SPARSE = "holds a sparse tensor, which no train step has"
OUTSIDE = "refers to data outside its file"

MODEL: Message = {
    1: Field("ir_version", _NUMBER),
    2: Field("producer_name"),
    3: Field("producer_version"),
    4: Field("domain"),
    5: Field("model_version", _NUMBER),
    6: Field("doc_string"),
    7: Field("graph"),
    8: _many("opset_import"),
    14: _TEXT_PAIRS,
    20: _no("training_info", "holds training_info, which no runtime of ours reads"),
    25: _no("functions", "defines operators of its own"),
    26: _no("configuration", "is divided among several processors"),
}
GRAPH: Message = {
    1: _many("node"),
    2: Field("name"),
    5: _many("initializer"),
    10: Field("doc_string"),
    11: _many("input"),
    12: _many("output"),
    13: _many("value_info"),
    14: _no("quantization_annotation", "is quantised"),
    15: _no("sparse_initializer", _SPARSE),
    16: _TEXT_PAIRS,
}
NODE: Message = {
    1: _many("input"),
    2: _many("output"),
    3: Field("name"),
    4: Field("op_type"),
    5: _many("attribute"),
    6: Field("doc_string"),
    7: Field("domain"),
    8: Field("overload"),
    9: _TEXT_PAIRS,
    10: _no("device_configurations", "is divided among several processors"),
}
ATTRIBUTE: Message = {
    1: Field("name"),
    2: Field("f", _REAL),
    3: Field("i", _NUMBER),
    4: Field("s"),
    5: Field("t"),
    6: _no("g", _SUBGRAPH),
    7: _many("floats", _REAL),
    8: _many("ints", _NUMBER),
    9: _many("strings"),
    10: _many("tensors"),
    11: _no("graphs", _SUBGRAPH),
    13: Field("doc_string"),
    14: _no("tp", "holds a type as an attribute, which no operator of ours has"),
    15: _no("type_protos", "holds a type as an attribute, which no operator of ours has"),
    20: Field("type", _NUMBER),
    21: _no("ref_attr_name", "refers to the attribute of a function"),
    22: _no("sparse_tensor", _SPARSE),
    23: _no("sparse_tensors", _SPARSE),
}
TENSOR: Message = {
    1: _many("dims", _NUMBER),
    2: Field("data_type", _NUMBER),
    3: _no("segment", "holds a tensor in pieces"),
    4: _many("float_data", _REAL),
    5: _many("int32_data", _NUMBER),
    6: _no("string_data", "holds a tensor of texts"),
    7: _many("int64_data", _NUMBER),
    8: Field("name"),
    9: Field("raw_data"),
    10: _many("double_data", _DOUBLE),
    11: _many("uint64_data", _NUMBER),
    12: Field("doc_string"),
    13: _no("external_data", OUTSIDE),
    14: Field("data_location", _NUMBER),
    16: _TEXT_PAIRS,
}
VALUE: Message = {1: Field("name"), 2: Field("type"), 3: Field("doc_string"), 4: _TEXT_PAIRS}
_PLAIN_ONLY = "has a value that is neither a plain tensor nor a sequence of such"
TYPE: Message = {
    1: Field("tensor_type"),
    4: Field("sequence_type"),
    5: _no("map_type", _PLAIN_ONLY),
    6: Field("denotation"),
    7: _no("opaque_type", _PLAIN_ONLY),
    8: _no("sparse_tensor_type", _PLAIN_ONLY),
    9: _no("optional_type", _PLAIN_ONLY),
}
ELEMENT_TYPE: Message = {1: TYPE[1], 6: TYPE[6]}  # of a sequence: sequences of sequences are refused
SEQUENCE_TYPE: Message = {1: Field("elem_type")}
TENSOR_TYPE: Message = {1: Field("elem_type", _NUMBER), 2: Field("shape")}
TENSOR_SHAPE: Message = {1: _many("dim")}
DIMENSION: Message = {1: Field("dim_value", _NUMBER), 2: Field("dim_param"), 3: Field("denotation")}

# Bytes of an element by ONNX's number of its type: numbers and truth values of whole bytes, no texts.
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
DATA = {field.name: field.wire for field in TENSOR.values() if field.name.endswith("_data") and not field.refused}
