"""Reading a TFLite file: its schema object, and the metadata it carries."""

from typing import Any

import numpy as np

from device_runtime.wire.errors import UsageError
from export.tflite.flatbuffer import load_schema


def read_model(data: bytes) -> Any:
    """The schema object (ModelT) of a file's bytes.

    Raises UsageError for bytes that are no TFLite file, or one cut short.
    """
    schema = load_schema()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except Exception as error:  # the generated reader trusts offsets, so bad bytes raise whatever they run into
        raise UsageError(f"the TFLite file is malformed ({type(error).__name__}: {error}): copy it again") from error
    if not model.subgraphs or not model.buffers or not model.operatorCodes:
        raise UsageError("the TFLite file is malformed (it holds no graph): copy it again")
    _check_indices(model)
    _take_in(model, data)
    return model


def _check_indices(model: Any) -> None:
    """Every index of the first subgraph points at something, so that readers need not ask.

    Raises UsageError for one that does not, and for an operator without operands.
    """
    graph = model.subgraphs[0]
    graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
    graph.inputs, graph.outputs = _listed(graph.inputs), _listed(graph.outputs)
    buffers, tensors = len(model.buffers), len(graph.tensors)
    sound = all(0 <= t.buffer < buffers for t in [*graph.tensors])
    sound &= all(0 <= entry.buffer < buffers for entry in model.metadata or [])
    sound &= all(0 <= i < tensors for i in (*graph.inputs, *graph.outputs))
    for operator in graph.operators:
        operator.inputs, operator.outputs = _listed(operator.inputs), _listed(operator.outputs)
        sound &= 0 <= operator.opcodeIndex < len(model.operatorCodes)
        # -1 stands for an optional input that is left out.
        sound &= all(-1 <= i < tensors for i in operator.inputs) and len(operator.outputs) > 0
        sound &= all(0 <= i < tensors for i in operator.outputs)
    if not sound:
        raise UsageError("the TFLite file is malformed (an index points nowhere): copy it again")


def _listed(values: Any) -> list[int]:
    return [] if values is None else [int(i) for i in values]


def _take_in(model: Any, data: bytes) -> None:
    """Constants that a writer put behind the flatbuffer (large models) become ordinary ones.

    Raises UsageError for one that lies outside the file.
    """
    for buffer in model.buffers:
        # The format's rule: 0 and 1 are no offsets.
        if buffer.offset > 1:
            if buffer.offset + buffer.size > len(data):
                raise UsageError("the TFLite file is malformed (a constant lies outside of it): copy it again")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0


def read_metadata(data: bytes) -> dict[str, bytes]:
    """The metadata entries of a file by name.

    Raises UsageError as `read_model` does.
    """
    model = read_model(data)
    found = {}
    for entry in model.metadata or []:
        content = model.buffers[entry.buffer].data
        found[text(entry.name)] = b"" if content is None else bytes(bytearray(content))
    return found


def text(value: Any) -> str:
    """A name of the schema, which its reader gives as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
