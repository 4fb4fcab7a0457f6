"""The forward graph of a train step lowered into the layout: prunable weights become vectors of their kept values."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx import TensorProto

from device_runtime.wire.manifest import STAMP, Parameter, count_name, kept_name
from export.forward.form import INPUT
from export.sparse import rules  # noqa: F401  # registers the gradients
from export.sparse.layout import DOMAIN, OPERATORS_VERSION, Map, packed_shape
from export.sparse.plan import Plan
from export.sparse.recognition import Layer
from export.steps.step_graph import StepGraph


def lower(step: StepGraph, table: Sequence[Parameter]) -> None:
    """Bring the forward nodes of `step` into the layout, in place.

    Every prunable weight w becomes an input of its kept values, float32 [w.count], beside `w.kept`, their flat indices
    in the dense weight, int32 [w.count], rising; a scalar `stamp`, int64, says when they have changed.
    """
    weights = {p.name: step.inputs[p.name] for p in table if p.prunable}
    trained = {step.inputs[p.name] for p in table if p.role != "statistic"}
    plan = Plan(step.tape, step.forward, step.output, weights)
    plan.finish()
    _Lowering(step, plan, {p.name: p for p in table}, _depending(step.forward, trained)).run()


def _depending(nodes: Sequence[ir.Node], sources: set[ir.Value]) -> set[ir.Value]:
    found = set(sources)
    for node in nodes:
        if any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


class _Lowering:
    """Nodes written in the order of the plan."""

    def __init__(self, step: StepGraph, plan: Plan, table: dict[str, Parameter], depending: set[ir.Value]) -> None:
        self._step, self._tape, self._plan, self._table = step, step.tape, plan, table
        self._forward_halos, self._backward_halos = plan.halos(lambda value: value in depending)
        self._gated = plan.gated()
        self._nodes: list[ir.Node] = []
        self._packed: dict[ir.Value, ir.Value] = {}
        self._plain: dict[ir.Value, ir.Value] = {}
        self._dense: dict[str, ir.Value] = {}
        self._old = {step.inputs[name]: name for name, p in table.items() if p.prunable}

    def run(self) -> None:
        """Replace the forward nodes, and the inputs of prunable weights."""
        self._stamp = self._step.add_input(STAMP, TensorProto.INT64, ())
        self._weights = {name: self._inputs_of(name) for name in self._old.values()}
        for step in self._plan.steps:
            if isinstance(step, Layer):
                self._layer(step)
            else:
                self._standard(step)
        self._step.output = self._as_plain(self._step.output)
        self._step.forward = self._nodes

    def _inputs_of(self, name: str) -> list[ir.Value]:
        count = count_name(name)
        values = self._step.replace_input(name, TensorProto.FLOAT, (count,))
        return [values, self._step.add_input(kept_name(name), TensorProto.INT32, (count,)), self._stamp]

    def _standard(self, node: ir.Node) -> None:
        """A node that stays what it is, and reads what it needs outside the layout."""
        for position, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(position, self._as_plain(value))
        self._nodes.append(node)

    def _as_plain(self, value: ir.Value) -> ir.Value:
        """A value as standard operators read it."""
        if value in self._old:
            return self._as_dense(self._old[value])
        source = self._plan.source(value)
        if source is None or (source is value and value not in self._packed):
            return value
        if source not in self._packed or self._is_packed_from_plain(source):
            return self._view(value)
        if value not in self._plain:
            shape = self._tape.shape(value)
            sample = [int(n) for n in shape[1:]]
            inputs = [self._packed[source], self._step.inputs[INPUT]]
            maps = {"x": self._geometry(source), "x_gradient": self._geometry(source, backward=True)}
            (self._plain[value],) = self._write("Unpack", inputs, [shape], sample=sample, **maps)
        return self._plain[value]

    def _is_packed_from_plain(self, value: ir.Value) -> bool:
        node = self._packed[value].producer()
        return node is not None and node.op_type == "Pack"

    def _view(self, value: ir.Value) -> ir.Value:
        """A view of a value that lies outside the layout too: the node that makes it."""
        node = value.producer()
        if node is not None and value in self._plan.views and node not in self._nodes:
            self._standard(node)
        return value

    def _as_dense(self, name: str) -> ir.Value:
        """A prunable weight as a tensor with zeros, for an operator that is not compiled."""
        if name not in self._dense:
            shape = self._table[name].shape
            (self._dense[name],) = self._write("Dense", self._weights[name], [shape], shape=list(shape))
        return self._dense[name]

    def _as_packed(self, value: ir.Value) -> ir.Value:
        if value not in self._packed:
            y, gradient = self._geometry(value), self._geometry(value, backward=True)
            version = {"operators": OPERATORS_VERSION}
            made = self._write("Pack", [value], [packed_shape(y)], y=y, y_gradient=gradient, **version)
            (self._packed[value],) = made
        return self._packed[value]

    def _geometry(self, value: ir.Value, *, backward: bool = False) -> list[int]:
        found: Map = self._plan.maps[value]
        return found.with_halo((self._backward_halos if backward else self._forward_halos)[value])

    def _layer(self, layer: Layer) -> None:
        reads = [self._as_packed(value) for value in layer.reads]
        self._tape.scope = f"forward/{layer.node.name or layer.node.outputs[0].name}"
        shape = packed_shape(self._geometry(layer.makes))
        if layer.operator == "Add":
            total = self._tape.op("Add", *reads)
            self._tape.declare(total, shape)
            self._remember(total)
            self._packed[layer.makes] = total
            return
        maps = {
            "x": self._geometry(layer.x),
            "y": self._geometry(layer.makes),
            "x_gradient": self._geometry(layer.x, backward=True),
            "y_gradient": self._geometry(layer.makes, backward=True),
        }
        flags = {"relu": int(layer.relu), "gated": int(layer.makes in self._gated)}
        flags["masked"] = int(layer.x in self._gated)
        inputs, shapes = reads, [shape]
        if layer.weight:
            inputs = [reads[0], *self._weights[layer.weight], *([layer.bias] if layer.bias is not None else [])]
        elif layer.operator == "BatchNorm":
            inputs, shapes = self._normalisation(layer, reads, shape)
            branch = layer.branch if layer.branch is not None else layer.makes
            maps |= {"branch": self._geometry(branch), "branch_gradient": self._geometry(branch, backward=True)}
        made = self._write(layer.operator, inputs, shapes, **maps, **flags, **layer.attributes)
        self._packed[layer.makes] = made[0]
        for old, new in zip(layer.node.outputs[1:], made[1:], strict=True):
            name = old.name or ""
            old.name, new.name = self._tape.fresh(name), name

    def _normalisation(
        self, layer: Layer, reads: list[ir.Value], shape: tuple[int | str, ...]
    ) -> tuple[list[ir.Value], list[tuple[int | str, ...]]]:
        scale, shift = layer.node.inputs[1:3]
        assert scale is not None
        assert shift is not None
        moments = self._tape.shape(scale)
        return [reads[0], scale, shift, self._step.inputs[INPUT], *reads[1:]], [shape, moments, moments]

    def _write(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        shapes: Sequence[tuple[int | str, ...]],
        **attributes: object,
    ) -> tuple[ir.Value, ...]:
        made = self._tape.foreign(DOMAIN, operator, inputs, shapes, **attributes)
        self._remember(made[0])
        return made

    def _remember(self, value: ir.Value) -> None:
        node = value.producer()
        assert node is not None
        self._nodes.append(node)
