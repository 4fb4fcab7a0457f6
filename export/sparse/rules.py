"""Gradient rules of the compiled operators: gradients stay in the layout, those of kept weights are vectors.

A node carries the geometries of x and y, and as x_gradient and y_gradient those of their gradients, whose halos differ:
forward a window reads around x, backward around the gradient of y. `relu` says that the node ends in a ReLU. Where all
readers of the result are able to, they gate its gradient themselves (`masked` on them, `gated` here), which spares a
pass over it.
"""

import onnx_ir as ir

from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Tape
from export.sparse.layout import DOMAIN, geometry, packed_shape

# What is handed on to the gradients of an operator with windows.
_WINDOWS = ("kernel", "strides", "before", "behind", "dilations", "group", "count_padding", "outputs", "transposed")


@rule("Conv", "Linear", domain=DOMAIN)
def contraction(tape: Tape, node: Applied) -> Gradients:
    """x, kept values, indices, stamp and bias."""
    operator, g = node.node.op_type, _behind_relu(tape, node)
    weight = [node.input(i) for i in (1, 2, 3)]
    handed = _handed(node)
    left = values = bias = None
    if node.needed[0]:
        gate = [node.x] if node.integer("masked", 0) else []
        to = geometry(node.node, "x_gradient")
        left = _packed(tape, f"{operator}InputGradient", [g, *weight, *gate], to, dx=to, **handed)
    if node.needed[1]:
        shape = tape.shape(node.input(1))
        (values,) = tape.foreign(DOMAIN, f"{operator}ValueGradient", [g, *weight, node.x], [shape], **handed)
    if node.optional(4) is not None and node.needed[4]:
        bias = _channel_sum(tape, g, geometry(node.node, "y_gradient"))
    return [left, values, None, None, bias]


@rule("BatchNorm", domain=DOMAIN)
def batch_norm(tape: Tape, node: Applied) -> Gradients:
    """x, scale, shift, batch and the branch that is added; the ReLU behind it is gated on the way."""
    x, scale, batch = node.x, node.input(1), node.input(3)
    mean, variance = node.node.outputs[1:3]
    inputs = [node.gradient, x, scale, mean, variance, batch, *([node.y] if node.integer("relu", 0) else [])]
    maps = {name: geometry(node.node, name) for name in ("x", "y")}
    maps |= {"dy": geometry(node.node, "y_gradient"), "dx": geometry(node.node, "x_gradient")}
    maps["dbranch"] = geometry(node.node, "branch_gradient")
    shapes = [packed_shape(maps["dx"]), tape.shape(scale), tape.shape(scale)]
    branch = node.optional(4) is not None and node.needed[4]
    if branch:
        shapes.append(packed_shape(maps["dbranch"]))
    epsilon = node.real("epsilon", 1e-5)
    found = tape.foreign(DOMAIN, "BatchNormGradient", inputs, shapes, epsilon=epsilon, **maps)
    return [*found[:3], None, found[3] if branch else None]


@rule("MaxPool", domain=DOMAIN)
def max_pool(tape: Tape, node: Applied) -> Gradients:
    """To the first of the largest."""
    to = geometry(node.node, "x_gradient")
    inputs = [_behind_relu(tape, node), node.x]
    masked = node.integer("masked", 0)
    return [_packed(tape, "MaxPoolGradient", inputs, to, dx=to, masked=masked, **_handed(node))]


@rule("AveragePool", domain=DOMAIN)
def average_pool(tape: Tape, node: Applied) -> Gradients:
    """In equal shares."""
    to = geometry(node.node, "x_gradient")
    return [_packed(tape, "AveragePoolGradient", [node.gradient], to, dx=to, **_handed(node))]


@rule("Relu", domain=DOMAIN)
def relu(tape: Tape, node: Applied) -> Gradients:
    """Where the result is above 0."""
    return [_gated(tape, node, geometry(node.node, "x_gradient"))]


@rule("Pack", domain=DOMAIN)
def pack(tape: Tape, node: Applied) -> Gradients:
    """Out of the layout."""
    shape = tape.shape(node.x)
    sample = [int(n) for n in shape[1:]]
    x = geometry(node.node, "y_gradient")
    return tape.foreign(DOMAIN, "Unpack", [node.gradient, node.x], [shape], x=x, sample=sample)


@rule("Unpack", domain=DOMAIN)
def unpack(tape: Tape, node: Applied) -> Gradients:
    """Into the layout, where lanes without an image get 0."""
    to = geometry(node.node, "x_gradient")
    return [_packed(tape, "Pack", [node.gradient], to, y=to), None]


@rule("Dense", domain=DOMAIN)
def dense(tape: Tape, node: Applied) -> Gradients:
    """The elements that are kept."""
    return [tape.op("Gather", tape.op("Reshape", node.gradient, [-1]), node.input(1)), None, None]


def _behind_relu(tape: Tape, node: Applied) -> ir.Value:
    """The gradient before the ReLU that a node ends in."""
    if not node.integer("relu", 0) or node.integer("gated", 0):
        return node.gradient
    return _gated(tape, node, geometry(node.node, "y_gradient"))


def _gated(tape: Tape, node: Applied, to: list[int]) -> ir.Value:
    of_y, of_dy = (geometry(node.node, name) for name in ("y", "y_gradient"))
    return _packed(tape, "ReluGradient", [node.gradient, node.y], to, y=of_y, dy=of_dy, dx=to)


def _channel_sum(tape: Tape, g: ir.Value, of: list[int]) -> ir.Value:
    (total,) = tape.foreign(DOMAIN, "ChannelSum", [g], [(of[0],)], x=of)
    return total


def _handed(node: Applied) -> dict[str, object]:
    """The attributes that gradients share with their node."""
    own = node.node.attributes
    handed: dict[str, object] = {name: own[name].value for name in _WINDOWS if name in own}
    return handed | {
        "x": geometry(node.node, "x"),
        "y": geometry(node.node, "y"),
        "dy": geometry(node.node, "y_gradient"),
    }


def _packed(tape: Tape, operator: str, inputs: list[ir.Value], to: list[int], **attributes: object) -> ir.Value:
    (value,) = tape.foreign(DOMAIN, operator, inputs, [packed_shape(to)], **attributes)
    return value
