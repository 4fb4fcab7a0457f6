"""A TFLite graph under construction and its bytes: tensors, operators, constants, metadata.

Uses the schema objects that LiteRT ships; format: the flatbuffer schema of TensorFlow Lite, version 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.deploy.net import Array, Shape
from export.deploy.provenance import TFLITE_IDENTIFIER
from export.extras import require

SCHEMA_VERSION = 3
SIGNATURE = "serving_default"
# Kernels and microcontrollers read constants in place, so they start where a vector register wants them.
ALIGNMENT = 16

Options = tuple[str, Mapping[str, Any]]
_TYPES = {"float32": "FLOAT32", "int32": "INT32", "int64": "INT64", "int8": "INT8", "uint8": "UINT8", "bool": "BOOL"}


def load_schema() -> Any:
    """LiteRT's schema objects. Raises UsageError when LiteRT is not installed."""
    return require("ai_edge_litert.schema_py_generated", "tflite")


class FlatGraph:
    """One subgraph, built front to back; tensors are indices."""

    def __init__(self, name: str) -> None:
        self._schema = load_schema()
        self._graph = self._schema.SubGraphT()
        self._graph.name = name
        self._graph.tensors, self._graph.operators = [], []
        # By the format's rule buffer 0 is empty and stands for "no constant".
        self._buffers = [self._schema.BufferT()]
        self._codes: dict[tuple[int, int], int] = {}
        self._known: dict[tuple[str, Shape, bytes], int] = {}
        self._names: set[str] = set()

    def value(self, name: str, shape: Shape) -> int:
        """A float32 tensor that is computed or given."""
        return self._tensor(name, shape, "float32", 0)

    def constant(self, name: str, array: Array) -> int:
        """A constant tensor; an equal one that is there already is used again."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(key[2], dtype=np.uint8)
            self._buffers.append(buffer)
            self._known[key] = self._tensor(name, array.shape, str(array.dtype), len(self._buffers) - 1)
        return self._known[key]

    def rename(self, tensor: int, name: str) -> None:
        """Call a tensor `name`, which no other may have."""
        assert name not in self._names
        self._graph.tensors[tensor].name = self._unique(name)

    def operator(
        self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: Options | None, version: int
    ) -> None:
        """Append an operator by its name in the schema; options name their table there and its fields."""
        operator = self._schema.OperatorT()
        number = getattr(self._schema.BuiltinOperator, code)
        operator.opcodeIndex = self._codes.setdefault((number, version), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            table, fields = options
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(self._schema, f"{table}T")()
            for field, value in fields.items():
                assert hasattr(operator.builtinOptions, field), f"{table} has no {field}"
                setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)

    def choice(self, enumeration: str, name: str) -> int:
        """The number of a name in an enumeration of the schema."""
        number: int = getattr(getattr(self._schema, enumeration), name)
        return number

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int], metadata: Mapping[str, bytes]) -> bytes:
        """The file's bytes; inputs and outputs are named in a signature too."""
        schema = self._schema
        self._graph.inputs, self._graph.outputs = list(inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, "espalier"
        model.subgraphs, model.buffers = [self._graph], self._buffers
        model.operatorCodes = [self._operator_code(*key) for key in self._codes]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs = [self._tensor_map(name, index) for name, index in inputs.items()]
        signature.outputs = [self._tensor_map(name, index) for name, index in outputs.items()]
        model.signatureDefs = [signature]
        set_metadata(schema, model, metadata)
        return pack(model)

    def _tensor(self, name: str, shape: Shape, dtype: str, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = self._unique(name), list(shape), buffer
        tensor.type = getattr(self._schema.TensorType, _TYPES[dtype])
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _unique(self, name: str) -> str:
        """The name, with a number behind it if it is taken: the quantiser tells tensors apart by their names."""
        found, count = name, 1
        while found in self._names:
            found, count = f"{name}.{count}", count + 1
        self._names.add(found)
        return found

    def _operator_code(self, number: int, version: int) -> Any:
        code = self._schema.OperatorCodeT()
        # Readers take the greater of the two fields; the old one is a byte.
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        return code

    def _tensor_map(self, name: str, index: int) -> Any:
        entry = self._schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry


def set_metadata(schema: Any, model: Any, metadata: Mapping[str, bytes]) -> None:
    """Add metadata entries, each in a buffer of its own, to a model's schema object."""
    model.metadata = list(model.metadata or [])
    for key, data in metadata.items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, dtype=np.uint8)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = key, len(model.buffers) - 1
        model.metadata.append(entry)


def pack(model: Any) -> bytes:
    """A model's schema object as bytes, every constant aligned."""
    flatbuffers = require("flatbuffers", "tflite")

    class Aligned(flatbuffers.Builder):  # type: ignore[misc,name-defined]
        """flatbuffers' Python writer knows no forced alignment; a model's only vectors of bytes are its buffers."""

        def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802 - flatbuffers' name
            data = x.astype(x.dtype.newbyteorder("<")).tobytes()
            self.StartVector(x.itemsize, x.size, ALIGNMENT if x.itemsize == 1 else x.itemsize)
            self.head -= len(data)
            self.Bytes[self.head : self.head + len(data)] = data
            self.vectorNumElems = x.size
            end: int = self.EndVector()
            return end

    builder = Aligned(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=TFLITE_IDENTIFIER)
    return bytes(builder.Output())
