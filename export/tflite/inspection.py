"""The layers of any TFLite file, ours or another's."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.deploy.facts import Inspection, LayerFacts, ideal_flops, sizes
from export.deploy.provenance import METADATA_KEY, decode_provenance
from export.tflite.flatbuffer import load_schema
from export.tflite.reading import read_metadata, read_model, text

# Contractions, which have their weight at input 1, with the inputs they need and the axes of a weight they need.
_CONTRACTIONS = {
    "CONV_2D": (2, 4), "DEPTHWISE_CONV_2D": (2, 4), "FULLY_CONNECTED": (2, 2), "TRANSPOSE_CONV": (3, 4),
    "BATCH_MATMUL": (2, 2),
}  # fmt: skip
_WEIGHT_AT = 1
_ONE_OF_TWO = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "PRELU"}
_NUMPY = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8, "UINT8": np.uint8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip


def inspect_tflite(path: Path) -> Inspection:
    """What is in a TFLite file: its first subgraph.

    Raises UsageError for a malformed file, and when LiteRT, which brings the schema, is not installed.
    """
    data = path.read_bytes()
    model = read_model(data)
    reader = _Reader(model)
    layers = tuple(reader.facts(operator) for operator in reader.graph.operators)
    dense = sum(layer.flops_dense or 0 for layer in layers)
    file_bytes, compressed_bytes = sizes(path)
    parameters = reader.parameters()
    return Inspection(
        file=path.name,
        kind="tflite",
        version=int(model.version),
        ir_version=None,
        producer=text(model.description),
        file_bytes=file_bytes,
        compressed_bytes=compressed_bytes,
        inputs=reader.signature(reader.graph.inputs),
        outputs=reader.signature(reader.graph.outputs),
        parameters=sum(v.size for v in parameters),
        zeros=sum(v.zeros for v in parameters),
        flops_dense=dense,
        flops_ideal=sum(layer.flops_ideal or 0 for layer in layers),
        flops_executed=dense,
        flops_unknown=tuple(x.name for x in layers if x.op in _CONTRACTIONS and x.flops_dense is None),
        dtypes=dict(reader.bytes_by_type()),
        layers=layers,
        provenance=decode_provenance(read_metadata(data).get(METADATA_KEY)),
    )


@dataclass(frozen=True, slots=True)
class _Count:
    """A constant tensor: how many numbers, how many of them zero, of which type."""

    size: int
    zeros: int
    dtype: str


class _Reader:
    """Names of the schema's numbers, and counts of the constants of a subgraph."""

    def __init__(self, model: Any) -> None:
        schema = load_schema()
        self._model = model
        self.graph = model.subgraphs[0]
        self._operators = _names(schema.BuiltinOperator)
        self._types = _names(schema.TensorType)
        # A weight kept sparse reaches its layer through DENSIFY; it is the same weight.
        self._packed = {
            operator.outputs[0]: operator.inputs[0]
            for operator in self.graph.operators
            if self._name(operator) == "DENSIFY" and operator.inputs
        }

    def facts(self, operator: Any) -> LayerFacts:
        op = self._name(operator)
        constants = [c for i in self._number_indices(op, operator) if (c := self._count(i)) is not None]
        dense = self._flops(op, operator)
        weight = None if dense is None else self._count(operator.inputs[_WEIGHT_AT])
        main = [weight] if weight is not None else constants
        return LayerFacts(
            name=text(self.graph.tensors[operator.outputs[0]].name),
            op=op,
            shape=self._shape(operator.outputs[0]),
            dtype=main[0].dtype if main else "",
            parameters=sum(c.size for c in constants),
            zeros=sum(c.zeros for c in constants),
            flops_dense=dense,
            flops_ideal=ideal_flops(dense, weight.size if weight else 0, weight.zeros if weight else 0),
        )

    def parameters(self) -> list[_Count]:
        """Every constant of numbers, once."""
        found: dict[int, _Count] = {}
        for operator in self.graph.operators:
            for index in self._number_indices(self._name(operator), operator):
                value = self._count(index)
                if value is not None:
                    found[int(self.graph.tensors[self._packed.get(index, index)].buffer)] = value
        return list(found.values())

    def signature(self, indices: Any) -> dict[str, tuple[int | str, ...]]:
        """Shapes of inputs or outputs by name."""
        return {text(self.graph.tensors[i].name): self._shape(int(i)) for i in indices}

    def bytes_by_type(self) -> Counter[str]:
        """Bytes of constants by the type of the tensors that hold them."""
        found: Counter[str] = Counter()
        seen = set()
        for tensor in self.graph.tensors:
            data = self._model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                found[self._types.get(tensor.type, "?").lower()] += len(data)
        return found

    def _name(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        if code.customCode:
            return text(code.customCode)
        return self._operators.get(max(int(code.builtinCode), int(code.deprecatedBuiltinCode)), "?")

    def _number_indices(self, op: str, operator: Any) -> list[int]:
        """Inputs that may hold numbers: of contractions weight and bias, of the rest both operands; no shapes."""
        inputs: list[int] = operator.inputs
        if op == "TRANSPOSE_CONV":
            return [*inputs[1:2], *inputs[3:]]
        if op in _CONTRACTIONS:
            return inputs[1:]
        return inputs if op in _ONE_OF_TWO else []

    def _count(self, index: int) -> _Count | None:
        """The count of a constant; None for what is computed, left out, or no numbers."""
        if index < 0:
            return None
        tensor = self.graph.tensors[self._packed.get(index, index)]
        data = self._model.buffers[tensor.buffer].data
        kind = _NUMPY.get(self._types.get(tensor.type, ""))
        if data is None or kind is None or not len(data) or len(data) % np.dtype(kind).itemsize:
            return None
        values: NDArray[np.generic] = np.asarray(data, dtype=np.uint8).view(kind)
        # The zeros of a sparse tensor are in its shape, not in its data.
        size = values.size if tensor.sparsity is None else max(values.size, math.prod(self._shape(index)))
        return _Count(size, size - int(np.count_nonzero(values)), str(values.dtype))

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def _flops(self, op: str, operator: Any) -> int | None:
        """2 per multiply-add; None for other operators and for one that is not whole."""
        inputs_needed, axes_needed = _CONTRACTIONS.get(op, (0, 0))
        if not inputs_needed or len(operator.inputs) < inputs_needed or min(operator.inputs[:inputs_needed]) < 0:
            return None
        data, weight = (self._shape(operator.inputs[i]) for i in (0, _WEIGHT_AT))
        out = self._shape(operator.outputs[0])
        if len(weight) < axes_needed or not data:
            return None
        if op == "DEPTHWISE_CONV_2D":
            return 2 * math.prod(out) * math.prod(weight[1:3])
        if op == "TRANSPOSE_CONV":
            return 2 * math.prod(self._shape(operator.inputs[2])) * weight[0] * math.prod(weight[1:3])
        if op == "BATCH_MATMUL":
            return 2 * math.prod(out) * data[-1]
        return 2 * math.prod(out) * math.prod(weight[1:])


def _names(enumeration: Any) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}
