"""The losses as operators: from output and labels to the mean loss, the correct count and the output's gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Loss
from export.gradients.tape import Dim, Tape


@dataclass(frozen=True, slots=True)
class LossValues:
    """loss: float scalar. correct: int64 scalar, None where there are no classes. gradient: of the output's shape."""

    loss: ir.Value
    correct: ir.Value | None
    gradient: ir.Value


def check_output(loss: Loss, shape: tuple[Dim, ...]) -> None:
    """Raises UsageError for an unknown loss and for cross-entropy over an output that is not [batch, classes]."""
    if loss not in _LOSSES:
        raise UsageError(f"there is no loss {loss!r}: choose one of {', '.join(_LOSSES)}")
    if loss == "cross_entropy" and (len(shape) != 2 or not isinstance(shape[1], int)):
        raise UsageError(
            f"cross-entropy takes an output of [batch, classes], and the model gives {list(shape)}: "
            "flatten or pool it, or choose another loss"
        )


def add_loss(tape: Tape, loss: Loss, output: ir.Value, labels: ir.Value) -> LossValues:
    """Append a loss that `check_output` has accepted.

    labels: int64 [batch] for "cross_entropy", else of the output's type and shape.
    """
    tape.scope = "loss"
    return _LOSSES[loss](tape, output, labels)


def _cross_entropy(tape: Tape, output: ir.Value, labels: ir.Value) -> LossValues:
    """-mean ln softmax(z)[label]; gradient (softmax(z) - onehot) / N."""
    classes = tape.shape(output)[1]
    assert isinstance(classes, int)
    column = tape.op("Unsqueeze", labels, [1])
    chosen = tape.cast_like(tape.op("Equal", column, list(range(classes))), output)
    log_probability = tape.op("LogSoftmax", output, axis=1)
    share = tape.op("Reciprocal", tape.cast_like(tape.op("Size", labels), output))
    total = tape.reduce("ReduceSum", tape.op("Mul", log_probability, chosen), [0, 1], keepdims=False)
    gradient = tape.op("Mul", tape.op("Sub", tape.op("Exp", log_probability), chosen), share)
    hits = tape.op("Equal", tape.op("ArgMax", output, axis=1, keepdims=0), labels)
    correct = tape.reduce("ReduceSum", tape.op("Cast", hits, to=int(ir.DataType.INT64)), [0], keepdims=False)
    return LossValues(tape.op("Neg", tape.op("Mul", total, share)), correct, gradient)


def _bce_with_logits(tape: Tape, output: ir.Value, labels: ir.Value) -> LossValues:
    """mean(max(z, 0) - z y + ln(1 + e^-|z|)); gradient (sigmoid(z) - y) / n."""
    tail = tape.op("Log", tape.op("Add", tape.op("Exp", tape.op("Neg", tape.op("Abs", output))), 1.0))
    linear = tape.op("Sub", tape.op("Relu", output), tape.op("Mul", output, labels))
    return _mean(tape, output, tape.op("Add", linear, tail), tape.op("Sub", tape.op("Sigmoid", output), labels))


def _mse(tape: Tape, output: ir.Value, labels: ir.Value) -> LossValues:
    """mean((z - y)²); gradient 2 (z - y) / n."""
    difference = tape.op("Sub", output, labels)
    return _mean(tape, output, tape.op("Mul", difference, difference), tape.op("Mul", difference, 2.0))


def _l1(tape: Tape, output: ir.Value, labels: ir.Value) -> LossValues:
    """mean |z - y|; gradient sign(z - y) / n."""
    difference = tape.op("Sub", output, labels)
    return _mean(tape, output, tape.op("Abs", difference), tape.op("Sign", difference))


def _mean(tape: Tape, output: ir.Value, losses: ir.Value, slopes: ir.Value) -> LossValues:
    """The mean over all elements of the output, and every element's slope divided by their number."""
    axes = list(range(len(tape.shape(output))))
    share = tape.op("Reciprocal", tape.cast_like(tape.op("Size", output), output))
    total = tape.reduce("ReduceSum", losses, axes, keepdims=False)
    return LossValues(tape.op("Mul", total, share), None, tape.op("Mul", slopes, share))


_LOSSES: Mapping[str, Callable[[Tape, ir.Value, ir.Value], LossValues]] = {
    "cross_entropy": _cross_entropy,
    "bce_with_logits": _bce_with_logits,
    "mse": _mse,
    "l1": _l1,
}
