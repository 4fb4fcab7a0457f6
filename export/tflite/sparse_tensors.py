"""Pruned weights kept as sparse tensors: the file holds what is not zero, and LiteRT unpacks it when it opens it.

The last axis of a weight is compressed row by row (CSR, the format's SPARSE_CSR): non-zero values, the column of each,
and where each row begins. A DENSIFY operator hands the whole weight to the layer that reads it, so every kernel works
as before: the file is smaller, memory and latency are not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.tflite.flatbuffer import load_schema, pack
from export.tflite.reading import read_model

# Layers whose weight, input 1, may come from DENSIFY, and of which types: LiteRT 2.3.0 does not open a fully connected
# layer whose int8 weight is unpacked ("failed to delegate FULLY_CONNECTED").
_LAYERS = {"CONV_2D": ("FLOAT32", "INT8"), "FULLY_CONNECTED": ("FLOAT32",)}
_TYPES: dict[str, np.dtype[Any]] = {"FLOAT32": np.dtype("<f4"), "INT8": np.dtype("i1")}
# Below this share of bytes saved a weight stays as it is.
_SAVING_MIN = 0.2


def encode_sparse(data: bytes) -> bytes:
    """The TFLite file with every weight that gets at least a fifth smaller kept as a sparse tensor.

    What it computes is the same to the bit. A file that gains nothing comes back as it is.

    Raises UsageError for bytes that are no TFLite file.
    """
    schema, model = load_schema(), read_model(data)
    graph = model.subgraphs[0]
    unpacked: dict[int, int] = {}
    operators = []
    for operator in graph.operators:
        kinds = _LAYERS.get(_code(schema, model, operator), ())
        if kinds:
            index = int(operator.inputs[1])
            if index not in unpacked and _compress(schema, model, graph.tensors[index], kinds):
                unpacked[index] = _dense_twin(graph, index)
                operators.append(_densify(schema, model, index, unpacked[index]))
            operator.inputs = [
                unpacked.get(int(i), int(i)) if at == 1 else int(i) for at, i in enumerate(operator.inputs)
            ]
        operators.append(operator)
    graph.operators = operators
    return pack(model) if unpacked else data


def _code(schema: Any, model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
    return next((name for name in _LAYERS if getattr(schema.BuiltinOperator, name) == number), "")


def _compress(schema: Any, model: Any, tensor: Any, types: Sequence[str]) -> bool:
    """Keep a constant tensor sparse if that saves enough; False if it stays as it is."""
    kinds: dict[int, np.dtype[Any]] = {
        getattr(schema.TensorType, name): dtype for name, dtype in _TYPES.items() if name in types
    }
    content = model.buffers[tensor.buffer].data
    if tensor.type not in kinds or content is None or tensor.sparsity is not None:
        return False
    # A buffer that two tensors share would be packed for one and not for the other.
    if sum(t.buffer == tensor.buffer for t in model.subgraphs[0].tensors) > 1:
        return False
    shape = [int(n) for n in tensor.shape]
    whole = np.asarray(content, dtype=np.uint8).view(kinds[tensor.type]).reshape(-1, shape[-1])
    rows, columns = np.nonzero(whole)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(whole)))])
    starts_type, columns_type = _smallest(int(starts[-1])), _smallest(shape[-1])
    size = len(rows) * (whole.itemsize + columns_type.itemsize) + len(starts) * starts_type.itemsize
    if size > (1 - _SAVING_MIN) * whole.nbytes:
        return False
    model.buffers[tensor.buffer].data = np.frombuffer(whole[rows, columns].tobytes(), dtype=np.uint8)
    tensor.sparsity = _sparsity(schema, shape, starts.astype(starts_type), columns.astype(columns_type))
    return True


def _smallest(greatest: int) -> np.dtype[Any]:
    """The narrowest integers the format has for indices up to `greatest`."""
    return np.dtype("u1") if greatest < 256 else np.dtype("<u2") if greatest < 65536 else np.dtype("<i4")


def _sparsity(schema: Any, shape: list[int], starts: NDArray[Any], columns: NDArray[Any]) -> Any:
    found = schema.SparsityParametersT()
    found.traversalOrder = list(range(len(shape)))
    found.blockMap = []
    found.dimMetadata = []
    for length in shape[:-1]:
        axis = schema.DimensionMetadataT()
        axis.format, axis.denseSize = schema.DimensionType.DENSE, length
        found.dimMetadata.append(axis)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType, last.arraySegments = _index_vector(schema, starts)
    last.arrayIndicesType, last.arrayIndices = _index_vector(schema, columns)
    found.dimMetadata.append(last)
    return found


def _index_vector(schema: Any, values: NDArray[Any]) -> tuple[int, Any]:
    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[values.itemsize]
    vector = getattr(schema, f"{name}T")()
    vector.values = values
    return getattr(schema.SparseIndexVector, name), vector


def _dense_twin(graph: Any, index: int) -> int:
    """A computed tensor like the constant one: shape, type, quantisation, but no content."""
    source = graph.tensors[index]
    twin = type(source)()
    twin.shape, twin.type, twin.quantization = source.shape, source.type, source.quantization
    twin.buffer, twin.name = 0, _beside(source.name)
    graph.tensors.append(twin)
    return len(graph.tensors) - 1


def _beside(name: Any) -> str:
    text = name.decode() if isinstance(name, bytes) else str(name)
    return f"{text}/dense"


def _densify(schema: Any, model: Any, source: int, target: int) -> Any:
    number = schema.BuiltinOperator.DENSIFY
    numbers = [int(code.builtinCode) for code in model.operatorCodes]
    if number not in numbers:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        model.operatorCodes.append(code)
        numbers.append(number)
    operator = schema.OperatorT()
    operator.opcodeIndex = numbers.index(number)
    operator.inputs, operator.outputs = [source], [target]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator
