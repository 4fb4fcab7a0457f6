"""The official graphs of onnxruntime-training for one forward model, mended so that 1.19.2 loads what it wrote."""

from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, helper

from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Loss, Optimizer, mask_name
from export.artifacts.onnxruntime_training import artifact_generator, without_chatter
from export.forward.form import IR_VERSION_MAX, OUTPUT
from export.forward.masking import with_masks
from export.forward.model import ForwardModel
from export.forward.modes import evaluation_form, training_form

LABELS = "labels"
TRAINING_MODEL = "training_model.onnx"
EVAL_MODEL = "eval_model.onnx"
OPTIMIZER_MODEL = "optimizer_model.onnx"
NOMINAL_CHECKPOINT = "nominal_checkpoint"
# torch's rule of AdamW: decay the weight first, bias-correct the moments apart, add epsilon to the corrected root.
_ADAM_MODE_TORCH = 0


def write_graphs(model: ForwardModel, folder: Path, loss: Loss, optimizer: Optimizer) -> tuple[str, ...]:
    """Write the training, evaluation and (where it applies the step) optimizer graph and the nominal checkpoint.

    Gives the names of the files written. Inputs of the first two are `input`, `labels`, then the parameters with the
    masks behind them; outputs start with the loss and `output`.

    Raises EngineError where onnxruntime-training is missing or has no gradient for an operator of the model.
    """
    artifacts, onnxblock = artifact_generator()
    weights = [p.name for p in model.parameters if p.prunable]
    frozen = [p.name for p in model.parameters if p.role == "statistic"] + [mask_name(w) for w in weights]
    in_graph = optimizer.where == "graph"
    try:
        with without_chatter():
            artifacts.generate_artifacts(
                with_masks(training_form(model.proto), weights),
                requires_grad=[p.name for p in model.parameters if p.role != "statistic"],
                frozen_params=frozen,
                loss=_loss_block(onnxblock, loss),
                optimizer=_optimizer_block(onnxblock, optimizer) if in_graph else None,
                artifact_directory=folder,
                nominal_checkpoint=True,
                additional_output_names=[OUTPUT],
            )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"onnxruntime-training cannot differentiate the model: {reason}") from error
    (folder / "checkpoint").unlink()
    _mend_eval_model(folder / EVAL_MODEL)
    if in_graph:
        _mend_optimizer_model(folder / OPTIMIZER_MODEL)
    return (TRAINING_MODEL, EVAL_MODEL, NOMINAL_CHECKPOINT, *([OPTIMIZER_MODEL] if in_graph else []))


def _loss_block(onnxblock: Any, loss: Loss) -> Any:
    """The loss on top of the graph, reading its targets from `labels` whichever loss it is."""
    kinds = {
        "cross_entropy": onnxblock.loss.CrossEntropyLoss,
        "mse": onnxblock.loss.MSELoss,
        "bce_with_logits": onnxblock.loss.BCEWithLogitsLoss,
        "l1": onnxblock.loss.L1Loss,
    }
    official = kinds[loss]()

    class LossOnLabels(onnxblock.Block):  # type: ignore[misc]  # its base is known at run time only
        def build(self, output: str) -> Any:
            return official(output, LABELS)

    return LossOnLabels()


def _optimizer_block(onnxblock: Any, optimizer: Optimizer) -> Any:
    if optimizer.name == "sgd":
        return onnxblock.optim.SGD()
    betas = (optimizer.beta1, optimizer.beta2)
    return onnxblock.optim.AdamW(betas=betas, eps=optimizer.epsilon, weight_decay=optimizer.weight_decay)


def _mend_eval_model(path: Path) -> None:
    """Take the training form's extra outputs off the batch normalisations: 1.19.2 refuses to load them otherwise."""
    onnx.save(evaluation_form(onnx.load(path)), path)


def _mend_optimizer_model(path: Path) -> None:
    """Stamp an IR version 1.19.2 accepts (a newer onnx writes its own), and torch's rule into AdamW."""
    graph = onnx.load(path)
    graph.ir_version = min(graph.ir_version, IR_VERSION_MAX)
    for node in graph.graph.node:
        if node.op_type == "AdamWOptimizer":
            _set_integer(node, "adam_mode", _ADAM_MODE_TORCH)
    onnx.save(graph, path)


def _set_integer(node: NodeProto, name: str, value: int) -> None:
    others = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])
