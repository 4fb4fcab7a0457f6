"""A forward graph on its way to a step: prepared for differentiation, given inputs and outputs, checked at the end."""

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, helper, version_converter
from onnx_ir.passes.common import RemoveUnusedNodesPass

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Parameter
from export.forward.form import BATCH, INPUT, IR_VERSION_MAX, OPSET, OPSET_MAX, OUTPUT
from export.forward.reading import opset
from export.gradients.decomposition import decomposed
from export.gradients.folding import Dim, fold, keep_foreign_shapes
from export.gradients.tape import Tape


class StepGraph:
    """A graph with the forward nodes of a model, whose parameters are inputs, and a tape to add to it.

    forward: the nodes in topological order. output: the model's output, of `output_shape`.
    """

    def __init__(self, model: ModelProto, parameters: Sequence[Parameter]) -> None:
        folded, shapes = fold(decomposed(_with_inputs(_in_range(model), parameters)))
        types = onnx.shape_inference.infer_shapes(folded)
        self._model = ir.from_proto(types)
        self.graph = self._model.graph
        self.tape = Tape(self.graph, shapes)
        self.forward = list(self.graph)
        self.inputs: dict[str, ir.Value] = {v.name or "": v for v in self.graph.inputs}
        (self.output,) = self.graph.outputs
        self.output_shape = self.tape.shape(self.output)
        self._order = [INPUT, *(p.name for p in parameters)]
        self.graph.outputs.clear()
        for node in self.forward:
            for value in node.outputs:
                # Inference runs again over the finished graph; what it said of this one may be finer than it will say.
                value.shape = None

    def add_input(self, name: str, kind: int, shape: Sequence[Dim], *, behind: str = "") -> ir.Value:
        """A new input of the graph; `behind` names the input it follows, else it is the last.

        Raises UsageError where the model uses the name itself.
        """
        self.reserve(name)
        value = ir.val(name, dtype=ir.DataType(kind), shape=list(shape))
        self.inputs[name] = value
        self._order.insert(self._order.index(behind) + 1 if behind else len(self._order), name)
        self.tape.declare(value, tuple(shape))
        return value

    def replace_input(self, name: str, kind: int, shape: Sequence[Dim]) -> ir.Value:
        """Another input in the place of `name`, for readers that are still to come."""
        value = ir.val(name, dtype=ir.DataType(kind), shape=list(shape))
        self.inputs[name] = value
        self.tape.redeclare(value, tuple(shape))
        return value

    def reserve(self, name: str) -> None:
        """Make sure that nothing of the model has this name: inner values make way.

        Raises UsageError for a parameter of that name.
        """
        if name in self.inputs:
            raise UsageError(f"the model has a parameter {name!r}, a name that the step needs: rename it")
        for node in self.forward:
            for value in node.outputs:
                if value.name == name and value is not self.output:
                    value.name = self.tape.fresh(name)
                    self.tape.declare(value, self.tape.shape_by_name(name))

    def add_output(self, name: str, value: ir.Value, kind: int, shape: Sequence[Dim]) -> None:
        """A new output of the graph."""
        taken = value in self.graph.outputs or value.is_graph_input() or value.is_initializer() or value is self.output
        if taken and value.name != name:
            value = self.tape.op("Identity", value)
        if value.name != name:
            self.reserve(name)
            value.name = name
        value.dtype, value.shape = ir.DataType(kind), ir.Shape(list(shape))
        self.graph.outputs.append(value)

    def finished(self) -> ModelProto:
        """The graph as a model without anything that no output needs.

        The result passes onnx's full checker, with strict shape inference and the symbolic batch.
        """
        self.graph.inputs.clear()
        self.graph.inputs.extend(self.inputs[name] for name in self._order)
        self.graph.sort()
        RemoveUnusedNodesPass()(self._model)
        proto = ir.to_proto(self._model)
        proto.ir_version = min(proto.ir_version, IR_VERSION_MAX)
        proto.producer_name, proto.producer_version = "espalier", ""
        onnx.checker.check_model(proto, full_check=True)
        return proto


def _in_range(model: ModelProto) -> ModelProto:
    version = opset(model)
    if not 0 < version <= OPSET_MAX:
        raise UsageError(f"the model uses opset {version}: export it with opset {OPSET} to {OPSET_MAX}")
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"the model uses opset {version}, which cannot be converted ({reason}): export it with opset {OPSET}"
        ) from error


def _with_inputs(model: ModelProto, parameters: Sequence[Parameter]) -> ModelProto:
    """A copy whose inputs are `input` and the parameters, in table order, with the batch called `batch`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names = {p.name for p in parameters}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name not in names]
    (data,) = [info for info in copy.graph.input if info.name == INPUT]
    dim = data.type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_param = BATCH
    inputs = [helper.make_tensor_value_info(p.name, TensorProto.FLOAT, p.shape) for p in parameters]
    first = onnx.ValueInfoProto()
    first.CopyFrom(data)
    keep_foreign_shapes(copy)
    del copy.graph.input[:], copy.graph.initializer[:]
    copy.graph.input.extend([first, *inputs])
    copy.graph.initializer.extend(kept)
    if [o.name for o in copy.graph.output] != [OUTPUT]:
        raise UsageError(
            f"the model must have one output {OUTPUT!r}: bring it into form with export.models.onnx_import"
        )
    copy.graph.output[0].type.tensor_type.ClearField("shape")
    return copy
