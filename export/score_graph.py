"""The gradient of every prunable weight as one ONNX graph: what a device asks for before it moves its masks."""

from onnx import ModelProto, TensorProto

from device_runtime.wire.manifest import Loss
from export.forward.batch_moments import BatchMoments
from export.forward.model import ForwardModel
from export.forward.modes import evaluation_form
from export.gradients.reverse import gradients
from export.steps.step_graph import StepGraph
from export.train_step import add_batch_loss


def score_graph(model: ForwardModel, loss: Loss) -> ModelProto:
    """Inputs `input`, `labels` and the parameters as in `TrainStep`; outputs `<name>.gradient` per prunable weight.

    There are no masks: a pruned weight comes in as 0, and has the gradient that it would begin to train with. Batch
    normalisations take the moments of the batch, as in training. Raises as `train_step`.
    """
    table = model.parameters
    step = StepGraph(BatchMoments(evaluation_form(model.proto), table).model, table)
    slope = add_batch_loss(step, loss).gradient
    weights = {p.name: step.inputs[p.name] for p in table if p.prunable}
    found = gradients(step.tape, step.forward, {step.output: slope}, list(weights.values()))
    for name, weight in weights.items():
        gradient = found[weight]
        if gradient is None:  # the loss does not depend on it
            gradient = step.tape.op("Mul", weight, 0.0)
        step.add_output(f"{name}.gradient", gradient, TensorProto.FLOAT, step.tape.shape(weight))
    return step.finished()
