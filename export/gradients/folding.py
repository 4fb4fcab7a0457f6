"""What a graph says before it runs: values that are constant, and the shape of every value for any batch size.

Shapes are found by inferring twice, with two prime batch sizes. An axis that is equal both times is fixed; any other is
a multiple of the batch plus a number, and two axes with the same text have the same length. So a `Reshape` to a
computed shape resolves as well as a literal one, which inference with a symbolic batch does not manage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.forward.form import BATCH, IR_VERSION_MAX
from export.forward.reading import constant_tensor, free_inputs, initializers, integer, label, opset

Dim = int | str
# Two primes larger than an axis of a model usually is.
_PROBES = (10007, 20011)
# Results larger than this are left to be computed: folding them would only make the file larger.
_ELEMENTS_MAX = 1 << 16
# A value of these is not a function of its inputs, or costs nothing and is large.
_NEVER_FOLDED = frozenset({"RandomNormal", "RandomUniform", "Bernoulli", "Multinomial", "Dropout", "ConstantOfShape"})


def evaluate(op_type: str, arrays: Sequence[np.ndarray | None], attributes: Mapping[str, Any], version: int) -> Any:
    """The first output of one standard operator on constants."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    node = helper.make_node(op_type, names, ["y"])
    for key, value in attributes.items():
        if value is not None:
            plain = onnx_tensor(value) if not isinstance(value, int | float | str | list | tuple) else value
            node.attribute.append(helper.make_attribute(key, plain))
    return _run(node, {n: a for n, a in zip(names, arrays, strict=True) if a is not None}, version)


def onnx_tensor(value: Any) -> Any:
    """An onnx-ir tensor as protobuf; anything else unchanged."""
    return numpy_helper.from_array(value.numpy()) if hasattr(value, "numpy") else value


def fold(model: ModelProto) -> tuple[ModelProto, dict[str, tuple[Dim, ...]]]:
    """A copy without the nodes that compute constants, and the shape of every value.

    Shapes that cannot be inferred are left out: whoever needs one says so.

    Raises UsageError for an input with an open axis behind the batch.
    """
    probes = [_Probe(model, size) for size in _PROBES]
    first, second = probes
    folded = ModelProto()
    folded.CopyFrom(model)
    kept = []
    for node in model.graph.node:
        values = [(first.known.get(v), second.known.get(v)) for v in node.output if v]
        if values and all(a is not None and b is not None and np.array_equal(a, b) for a, b in values):
            arrays = [first.known[v] for v in node.output if v]
            folded.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(a), v) for a, v in zip(arrays, node.output, strict=False)
            )
        else:
            kept.append(node)
    del folded.graph.node[:]
    folded.graph.node.extend(kept)
    shapes = {}
    for name, shape in first.shapes.items():
        other = second.shapes.get(name)
        if other is not None and len(other) == len(shape):
            shapes[name] = tuple(_dim(a, b) for a, b in zip(shape, other, strict=True))
    return folded, shapes


class _Probe:
    """One model with one fixed batch size: the values that are known and the shapes."""

    def __init__(self, model: ModelProto, batch: int) -> None:
        probe = ModelProto()
        probe.CopyFrom(model)
        _fix_batch(probe, batch)
        constants = initializers(probe.graph)
        self.known: dict[str, np.ndarray] = {n: numpy_helper.to_array(t) for n, t in constants.items()}
        self._types = {n: t.data_type for n, t in constants.items()}
        self.shapes: dict[str, tuple[int, ...]] = {}
        found = -1
        # Values tell shapes and shapes tell values, so this goes on until neither tells more.
        while found != len(self.known) + len(self.shapes):
            found = len(self.known) + len(self.shapes)
            self._infer(probe)
            self._evaluate(probe)

    def _infer(self, probe: ModelProto) -> None:
        present = {t.name for t in probe.graph.initializer}
        small = ModelProto()
        small.CopyFrom(probe)
        kept = [n for n in probe.graph.node if not all(v in self.known for v in n.output if v)]
        del small.graph.node[:]
        small.graph.node.extend(kept)
        added = (n for n in self.known if n not in present)
        small.graph.initializer.extend(numpy_helper.from_array(np.asarray(self.known[n]), n) for n in added)
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
        for info in [*inferred.input, *inferred.value_info, *inferred.output]:
            kind = info.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.shapes[info.name] = tuple(d.dim_value for d in kind.shape.dim)
        self.shapes.update({name: np.shape(value) for name, value in self.known.items()})

    def _evaluate(self, probe: ModelProto) -> None:
        for node in probe.graph.node:
            if len(node.output) != 1 or node.output[0] in self.known or node.op_type in _NEVER_FOLDED:
                continue
            tensor = constant_tensor(node)
            if tensor is not None:
                self.known[node.output[0]] = numpy_helper.to_array(tensor)
            elif node.op_type == "Shape" and node.input[0] in self.shapes:
                shape = np.array(self.shapes[node.input[0]], dtype=np.int64)
                start, end = integer(node, "start", 0), integer(node, "end", len(shape))
                self.known[node.output[0]] = shape[start:end]
            elif all(v in self.known or not v for v in node.input) and node.domain in ("", "ai.onnx"):
                arrays = {v: self.known[v] for v in node.input if v}
                if all(a.size <= _ELEMENTS_MAX for a in arrays.values()) and not _has_graph(node):
                    result = np.asarray(_run(node, arrays, opset(probe)))
                    if result.size <= _ELEMENTS_MAX:
                        self.known[node.output[0]] = result


def _dim(first: int, second: int) -> Dim:
    """The axis that has these two lengths for the two probes, as a number or a text."""
    if first == second:
        return first
    small, large = _PROBES
    step, rest = divmod(second - first, large - small)
    if rest:
        return f"{first}|{second}"
    offset = first - step * small
    text = BATCH if step == 1 else f"{step}*{BATCH}"
    return text if offset == 0 else f"{text}{offset:+d}"


def _fix_batch(probe: ModelProto, batch: int) -> None:
    keep_foreign_shapes(probe)
    for info in probe.graph.value_info:
        for dim in info.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    for info in free_inputs(probe.graph):
        dims = info.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                if axis > 0:
                    raise UsageError(
                        f"axis {axis} of the input {info.name!r} is open: fix every axis of the input but the batch"
                    )
                dim.dim_value = batch
    for info in probe.graph.output:
        info.type.tensor_type.ClearField("shape")


def keep_foreign_shapes(model: ModelProto) -> None:
    """Drop every noted shape but those of operators that inference does not know."""
    foreign = {v for node in model.graph.node if node.domain not in ("", "ai.onnx") for v in node.output}
    kept = [info for info in model.graph.value_info if info.name in foreign]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _has_graph(node: NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


def _run(node: NodeProto, arrays: Mapping[str, np.ndarray], version: int) -> Any:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a))
        for n, a in arrays.items()
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)]
    graph = helper.make_graph([node], label(node) or "fold", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=IR_VERSION_MAX)
    results: Any = ReferenceEvaluator(model).run(None, dict(arrays))
    return results[0]
