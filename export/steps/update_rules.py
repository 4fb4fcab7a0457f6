"""The optimizers as operators: from a parameter, its gradient and its state to the next of both, torch's rules.

The parameter comes in gated by its mask and the gradient is zero where the mask is; state is gated here. So a pruned
weight stays +0 whatever the rule, even when the mask has changed since the state was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from device_runtime.wire.manifest import Optimizer
from export.gradients.tape import Tape

STEP = "optimizer.step"
# torch's clip_grad_norm_ adds this to the norm before dividing by it.
_CLIP_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained parameter: its gated value, its gradient, and its mask or None."""

    name: str
    value: ir.Value
    gradient: ir.Value
    mask: ir.Value | None


@dataclass(frozen=True, slots=True)
class Updated:
    """The next value of a parameter, and of its states by name."""

    value: ir.Value
    states: dict[str, ir.Value]


def state_names(optimizer: Optimizer, parameter: str) -> tuple[str, ...]:
    """The states an optimizer keeps for one parameter, each of its shape."""
    if optimizer.name == "adamw":
        return (f"{parameter}.moment1", f"{parameter}.moment2")
    return (f"{parameter}.momentum",) if optimizer.momentum else ()


def clipped(tape: Tape, gradients: Sequence[ir.Value], norm_max: float) -> list[ir.Value]:
    """The gradients scaled down together to a global 2-norm of at most `norm_max`, as torch's clip_grad_norm_ does."""
    squares = [tape.op("ReduceSum", tape.op("Mul", g, g), keepdims=0) for g in gradients]
    total = squares[0] if len(squares) == 1 else tape.op("Sum", *squares)
    norm = tape.op("Add", tape.op("Sqrt", total), _CLIP_EPSILON)
    factor = tape.op("Min", tape.op("Div", norm_max, norm), 1.0)
    return [tape.op("Mul", g, factor) for g in gradients]


def update(
    tape: Tape, optimizer: Optimizer, p: Trained, states: Sequence[ir.Value], rate: ir.Value, step: ir.Value | None
) -> Updated:
    """One step of one parameter.

    states: the values of `state_names`, in that order. step: AdamW's count of this step, a float scalar.
    """
    held = [_gated(tape, state, p.mask) for state in states]
    if optimizer.name == "adamw":
        assert step is not None
        return _adamw(tape, optimizer, p, held, rate, step)
    return _sgd(tape, optimizer, p, held, rate)


def _sgd(tape: Tape, optimizer: Optimizer, p: Trained, states: Sequence[ir.Value], rate: ir.Value) -> Updated:
    """v <- m v + g + decay w; w <- w - lr v, or w - lr (g + decay w + m v) with Nesterov."""
    direction = p.gradient
    if optimizer.weight_decay:
        direction = tape.op("Add", direction, tape.op("Mul", p.value, optimizer.weight_decay))
    following: dict[str, ir.Value] = {}
    if states:
        velocity = tape.op("Add", tape.op("Mul", states[0], optimizer.momentum), direction)
        following[state_names(optimizer, p.name)[0]] = velocity
        ahead = tape.op("Mul", velocity, optimizer.momentum) if optimizer.nesterov else None
        direction = velocity if ahead is None else tape.op("Add", direction, ahead)
    return Updated(tape.op("Sub", p.value, tape.op("Mul", direction, rate)), following)


def _adamw(
    tape: Tape, optimizer: Optimizer, p: Trained, states: Sequence[ir.Value], rate: ir.Value, step: ir.Value
) -> Updated:
    """m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) g²; w <- w (1 - lr decay) - lr m^ / (sqrt(v^) + eps).

    m^ = m / (1 - b1^t), v^ = v / (1 - b2^t) (Loshchilov and Hutter, arXiv 1711.05101).
    """
    g = p.gradient
    first = _blend(tape, states[0], g, optimizer.beta1)
    second = _blend(tape, states[1], tape.op("Mul", g, g), optimizer.beta2)
    size = tape.op("Div", rate, _correction(tape, step, optimizer.beta1))
    root = tape.op("Sqrt", _correction(tape, step, optimizer.beta2))
    divisor = tape.op("Add", tape.op("Div", tape.op("Sqrt", second), root), optimizer.epsilon)
    value = p.value
    if optimizer.weight_decay:
        value = tape.op("Mul", value, tape.op("Sub", 1.0, tape.op("Mul", rate, optimizer.weight_decay)))
    moved = tape.op("Sub", value, tape.op("Mul", tape.op("Div", first, divisor), size))
    return Updated(moved, dict(zip(state_names(optimizer, p.name), (first, second), strict=True)))


def _blend(tape: Tape, old: ir.Value, new: ir.Value, share: float) -> ir.Value:
    return tape.op("Add", tape.op("Mul", old, share), tape.op("Mul", new, 1.0 - share))


def _correction(tape: Tape, step: ir.Value, share: float) -> ir.Value:
    """1 - share^step, in double precision: for a share near 1 and few steps single precision loses three digits."""
    base = tape.constant(np.array(share, dtype=np.float64))
    power = tape.op("Pow", base, tape.op("Cast", step, to=int(ir.DataType.DOUBLE)))
    one = tape.constant(np.array(1.0, dtype=np.float64))
    return tape.cast_like(tape.op("Sub", one, power), step)


def _gated(tape: Tape, state: ir.Value, mask: ir.Value | None) -> ir.Value:
    return state if mask is None else tape.op("Mul", state, tape.cast_like(mask, state))
