"""Rules of the activation functions. A gradient is gated by a product with 0 and 1, never by Where (see `where`)."""

import math

import onnx_ir as ir

from export.gradients.broadcasting import unbroadcast
from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Tape


def _gate(tape: Tape, node: Applied, condition: ir.Value) -> ir.Value:
    """The gradient where `condition` holds, 0 elsewhere."""
    return tape.op("Mul", node.gradient, tape.cast_like(condition, node.y))


@rule("Relu")
def relu(tape: Tape, node: Applied) -> Gradients:
    """y = max(x, 0): g where y > 0."""
    return [_gate(tape, node, tape.op("Greater", node.y, 0.0))]


@rule("LeakyRelu")
def leaky_relu(tape: Tape, node: Applied) -> Gradients:
    """y = x or alpha x below 0: g (alpha + (1 - alpha) [x > 0])."""
    alpha = node.real("alpha", 0.01)
    positive = tape.cast_like(tape.op("Greater", node.x, 0.0), node.y)
    slope = tape.op("Add", tape.op("Mul", positive, 1.0 - alpha), alpha)
    return [tape.op("Mul", node.gradient, slope)]


@rule("PRelu")
def prelu(tape: Tape, node: Applied) -> Gradients:
    """y = x or s x below 0: g where x > 0 else g s; and the sum of g x below 0 for s."""
    slope = node.input(1)
    negative = tape.op("Mul", node.gradient, tape.cast_like(tape.op("LessOrEqual", node.x, 0.0), node.y))
    positive = tape.op("Sub", node.gradient, negative)
    left = tape.op("Add", positive, tape.op("Mul", negative, slope))
    right = unbroadcast(tape, node, tape.op("Mul", negative, node.x), tape.shape(node.y), slope)
    return [left, right]


@rule("Clip")
def clip(tape: Tape, node: Applied) -> Gradients:
    """y = x between bounds: g strictly inside, as torch for Relu6."""
    inside = None
    for position, comparison in ((1, "Greater"), (2, "Less")):
        bound = node.optional(position)
        if bound is not None:
            holds = tape.op(comparison, node.x, bound)
            inside = holds if inside is None else tape.op("And", inside, holds)
    return [node.gradient if inside is None else _gate(tape, node, inside)]


@rule("Sigmoid")
def sigmoid(tape: Tape, node: Applied) -> Gradients:
    """y = 1 / (1 + e^-x): g y (1 - y)."""
    return [tape.op("Mul", node.gradient, tape.op("Mul", node.y, tape.op("Sub", 1.0, node.y)))]


@rule("HardSigmoid")
def hard_sigmoid(tape: Tape, node: Applied) -> Gradients:
    """y = min(max(alpha x + beta, 0), 1): alpha g where 0 < y < 1."""
    inside = tape.op("And", tape.op("Greater", node.y, 0.0), tape.op("Less", node.y, 1.0))
    return [tape.op("Mul", _gate(tape, node, inside), node.real("alpha", 0.2))]


@rule("HardSwish")
def hard_swish(tape: Tape, node: Applied) -> Gradients:
    """y = x min(max(x/6 + 1/2, 0), 1): 0 up to -3, g from 3 on, g (x/3 + 1/2) between."""
    slope = tape.op("Add", tape.op("Mul", node.x, 1.0 / 3.0), 0.5)
    above = tape.cast_like(tape.op("Greater", node.x, -3.0), node.y)
    beyond = tape.cast_like(tape.op("GreaterOrEqual", node.x, 3.0), node.y)
    between = tape.op("Mul", slope, tape.op("Sub", above, beyond))
    return [tape.op("Mul", node.gradient, tape.op("Add", between, beyond))]


@rule("Tanh")
def tanh(tape: Tape, node: Applied) -> Gradients:
    """y = tanh x: g (1 - y²)."""
    return [tape.op("Mul", node.gradient, tape.op("Sub", 1.0, tape.op("Mul", node.y, node.y)))]


@rule("Elu")
def elu(tape: Tape, node: Applied) -> Gradients:
    """y = x or alpha (e^x - 1) below 0: g, and g (y + alpha) below 0."""
    alpha = node.real("alpha", 1.0)
    # Above 0 the minimum of y and 0 is 0, so only the constant has to be exchanged there.
    below = tape.op("Mul", tape.cast_like(tape.op("LessOrEqual", node.x, 0.0), node.y), alpha - 1.0)
    slope = tape.op("Add", tape.op("Min", node.y, 0.0), tape.op("Add", below, 1.0))
    return [tape.op("Mul", node.gradient, slope)]


@rule("Selu")
def selu(tape: Tape, node: Applied) -> Gradients:
    """y = gamma x, or gamma alpha (e^x - 1) below 0: gamma g, and g (y + gamma alpha) below 0."""
    alpha, gamma = node.real("alpha", 1.67326319217681884765625), node.real("gamma", 1.05070102214813232421875)
    exchanged = gamma * alpha - gamma
    below = tape.op("Mul", tape.cast_like(tape.op("LessOrEqual", node.x, 0.0), node.y), exchanged)
    slope = tape.op("Add", tape.op("Min", node.y, 0.0), tape.op("Add", below, gamma))
    return [tape.op("Mul", node.gradient, slope)]


@rule("ThresholdedRelu")
def thresholded_relu(tape: Tape, node: Applied) -> Gradients:
    """y = x above alpha, 0 elsewhere: g above alpha."""
    return [_gate(tape, node, tape.op("Greater", node.x, node.real("alpha", 1.0)))]


@rule("Gelu")
def gelu(tape: Tape, node: Applied) -> Gradients:
    """y = x P(x) with P the normal distribution: g (P(x) + x p(x)), p(x) = e^(-x²/2) / sqrt(2 pi).

    With approximate="tanh", y = x (1 + t) / 2 where t = tanh(u), u = c (x + k x³) (Hendrycks and Gimpel, arXiv
    1606.08415): g ((1 + t) / 2 + x (1 - t²) u' / 2).
    """
    x = node.x
    square = tape.op("Mul", x, x)
    if node.text("approximate", "none") == "tanh":
        c, k = math.sqrt(2.0 / math.pi), 0.044715
        u = tape.op("Mul", x, tape.op("Add", tape.op("Mul", square, c * k), c))
        t = tape.op("Tanh", u)
        below = tape.op("Add", tape.op("Mul", t, 0.5), 0.5)
        inner = tape.op("Mul", x, tape.op("Add", tape.op("Mul", square, 3.0 * c * k), c))
        density = tape.op("Mul", tape.op("Sub", 0.5, tape.op("Mul", tape.op("Mul", t, t), 0.5)), inner)
    else:
        below = tape.op("Add", tape.op("Mul", tape.op("Erf", tape.op("Mul", x, math.sqrt(0.5))), 0.5), 0.5)
        bell = tape.op("Exp", tape.op("Mul", square, -0.5))
        density = tape.op("Mul", x, tape.op("Mul", bell, 1.0 / math.sqrt(2.0 * math.pi)))
    return [tape.op("Mul", node.gradient, tape.op("Add", below, density))]


@rule("Softplus")
def softplus(tape: Tape, node: Applied) -> Gradients:
    """y = ln(1 + e^x): g sigmoid(x)."""
    return [tape.op("Mul", node.gradient, tape.op("Sigmoid", node.x))]


@rule("Softsign")
def softsign(tape: Tape, node: Applied) -> Gradients:
    """y = x / (1 + |x|): g / (1 + |x|)²."""
    scale = tape.op("Add", tape.op("Abs", node.x), 1.0)
    return [tape.op("Div", node.gradient, tape.op("Mul", scale, scale))]


@rule("Softmax")
def softmax(tape: Tape, node: Applied) -> Gradients:
    """y = softmax(x): y (g - sum(g y)) along the axis."""
    weighted = tape.op("Mul", node.gradient, node.y)
    total = tape.reduce("ReduceSum", weighted, [node.integer("axis", -1)], keepdims=True)
    return [tape.op("Sub", weighted, tape.op("Mul", node.y, total))]


@rule("LogSoftmax")
def log_softmax(tape: Tape, node: Applied) -> Gradients:
    """y = ln softmax(x): g - e^y sum(g) along the axis."""
    total = tape.reduce("ReduceSum", node.gradient, [node.integer("axis", -1)], keepdims=True)
    return [tape.op("Sub", node.gradient, tape.op("Mul", tape.op("Exp", node.y), total))]
