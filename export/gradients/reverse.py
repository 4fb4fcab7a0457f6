"""The walk backwards: every node's rule once, last node first, gradients added where a value is read several times."""

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

# Imported so that their rules are registered.
from export.gradients import (  # noqa: F401
    activations,
    arithmetic,
    convolution,
    normalisation,
    pooling,
    products,
    reduction,
    shape,
)
from export.gradients.registry import Applied, find_rule
from export.gradients.tape import Tape


def gradients(
    tape: Tape, nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, ir.Value], wanted: Iterable[ir.Value]
) -> dict[ir.Value, ir.Value | None]:
    """The gradients of `wanted`, each of its value's shape; None for a value that nothing seeded depends on.

    nodes: the forward nodes in topological order. seeds: for values of the graph the gradient that enters there.
    The nodes of the gradient are appended to the tape's graph; nodes that nothing wanted reaches are left alone.

    Raises GradientError for an operator without a rule, or one that its rule refuses.
    """
    wanted = list(wanted)
    reached = _reached(nodes, wanted)
    arriving: dict[ir.Value, list[ir.Value]] = {value: [seed] for value, seed in seeds.items()}
    for node in reversed(nodes):
        outputs = [_total(tape, arriving, value) for value in node.outputs]
        needed = tuple(value is not None and value in reached for value in node.inputs)
        if not any(needed) or all(g is None for g in outputs):
            continue
        tape.scope = f"gradient/{node.name or node.outputs[0].name}"
        given = find_rule(node)(tape, Applied(node, tuple(outputs), needed))
        for value, gradient, need in zip(node.inputs, given, needed, strict=False):
            if value is not None and gradient is not None and need:
                arriving.setdefault(value, []).append(gradient)
    return {value: _total(tape, arriving, value) for value in wanted}


def _reached(nodes: Sequence[ir.Node], sources: Iterable[ir.Value]) -> set[ir.Value]:
    """Every value of a float type that depends on one of `sources`."""
    found = set(sources)
    for node in nodes:
        if any(value in found for value in node.inputs if value is not None):
            found.update(v for v in node.outputs if v.dtype is None or v.dtype.is_floating_point())
    return found


def _total(tape: Tape, arriving: dict[ir.Value, list[ir.Value]], value: ir.Value) -> ir.Value | None:
    """The sum of the gradients that arrived at a value, kept for whoever asks again."""
    parts = arriving.get(value)
    if not parts:
        return None
    if len(parts) > 1:
        total = parts[0]
        for part in parts[1:]:
            total = tape.op("Add", total, part)
        arriving[value] = [total]
    return arriving[value][0]
