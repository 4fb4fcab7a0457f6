"""What can stand in the way of differentiating a graph, always said with the node and a remedy."""

import onnx_ir as ir

from device_runtime.wire.errors import UsageError


class GradientError(UsageError):
    """A graph cannot be differentiated: an operator has no rule, or its rule does not take what it is given.

    node: the name of the node (its operator and output where it has none). operator: its operator type.
    """

    def __init__(self, node: ir.Node, reason: str, remedy: str) -> None:
        self.node = node_label(node)
        self.operator = node.op_type
        super().__init__(f"node {self.node!r} ({node.op_type}) {reason}: {remedy}")


def node_label(node: ir.Node) -> str:
    """What to call a node in a message: its name, or its operator and output where it has none."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"
