"""The table of gradient rules: which function knows the vector-Jacobian product of which operator.

A rule takes the tape and the node, and gives one gradient per input (None or missing: the input gets none). It may give
more than is asked for; what nobody reads is removed in the end. Rules of operators outside the standard domain are
registered the same way:

    @rule("Scale", domain="com.example")
    def scale(tape: Tape, node: Applied) -> Gradients:
        return [tape.op("Mul", node.gradient, node.inputs[1])]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.gradients.errors import GradientError
from export.gradients.tape import Tape

Gradients = Sequence[ir.Value | None]


@dataclass(frozen=True, slots=True)
class Applied:
    """A node of the forward graph together with the gradients of its outputs (None where no gradient arrives)."""

    node: ir.Node
    gradients: tuple[ir.Value | None, ...]
    needed: tuple[bool, ...]

    @property
    def gradient(self) -> ir.Value:
        """The gradient of the first output, for the many operators whose other outputs carry none."""
        first = self.gradients[0]
        if first is None or any(g is not None for g in self.gradients[1:]):
            raise self.refuse("passes a gradient through a secondary output", "read its first output only")
        return first

    @property
    def x(self) -> ir.Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def input(self, position: int) -> ir.Value:
        """An input that must be there."""
        value = self.optional(position)
        if value is None:
            raise self.refuse(f"lacks input {position}", "give a valid model")
        return value

    def optional(self, position: int) -> ir.Value | None:
        """An input that may be missing."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None

    def output(self, position: int, dtype: ir.DataType) -> ir.Value:
        """An optional output, which the node gets now if it lacks it."""
        if position >= len(self.node.outputs):
            self.node.resize_outputs(position + 1)
        value = self.node.outputs[position]
        if not value.name:
            value.name = f"{self.y.name}.output{position}"
            value.dtype = dtype
        return value

    @property
    def dtype(self) -> ir.DataType:
        """The type of the first input."""
        if self.x.dtype is None:
            raise self.refuse("has an input of unknown type", "give a model that passes shape inference")
        return self.x.dtype

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, None where the attribute is missing."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else list(attribute.as_ints())

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_string()

    def refuse(self, reason: str, remedy: str) -> GradientError:
        """The error that says this node cannot be differentiated."""
        return GradientError(self.node, reason, remedy)


Rule = Callable[[Tape, Applied], Gradients]

_RULES: dict[tuple[str, str], Rule] = {}


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the gradient of these operators of `domain`; a later one replaces it."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            _RULES[domain, op_type] = function
        return function

    return register


def find_rule(node: ir.Node) -> Rule:
    """The rule for a node.

    Raises GradientError, naming the node, where no rule is registered.
    """
    found = _RULES.get((_plain(node.domain), node.op_type))
    if found is None:
        raise GradientError(
            node, "has no gradient rule", "replace it by operators that have one, or register one with export.gradients"
        )
    return found


def known_operators() -> list[tuple[str, str]]:
    """(domain, operator) of every registered rule, sorted."""
    return sorted(_RULES)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
