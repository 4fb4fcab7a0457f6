"""Undoing a broadcast: the gradient of a value that was stretched is the sum over what it was stretched to."""

import onnx_ir as ir

from export.gradients.registry import Applied
from export.gradients.tape import Dim, Tape


def unbroadcast(tape: Tape, node: Applied, gradient: ir.Value, shape: tuple[Dim, ...], to: ir.Value) -> ir.Value:
    """`gradient`, of `shape`, summed to the shape of `to`, which numpy's rules had broadcast to `shape`.

    Raises GradientError for an axis that may or may not have been broadcast.
    """
    target = tape.shape(to)
    lead = len(shape) - len(target)
    axes = list(range(lead))
    for axis, length in enumerate(target, start=lead):
        if length != shape[axis]:
            if length != 1:
                raise node.refuse(
                    f"broadcasts an axis of length {length} to {shape[axis]}, which may or may not be equal",
                    "export the model with fixed sizes for every axis but the batch",
                )
            axes.append(axis)
    if not axes:
        return gradient
    if lead == 0:
        return tape.reduce("ReduceSum", gradient, axes, keepdims=True)
    summed = tape.reduce("ReduceSum", gradient, axes, keepdims=False)
    return summed if len(axes) == lead else tape.reshape_like(summed, to)
