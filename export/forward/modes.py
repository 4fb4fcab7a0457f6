"""The two forms of a forward graph: evaluation (running statistics) and training (batch statistics).

BatchNormalization differs: the training form has `training_mode` set and two more outputs, the new running mean and
variance, which the training session writes back over its inputs. Both forms count `momentum` the ONNX way: the share
of the old value that stays (0.9 here is torch's 0.1). LayerNormalization computes the same in both, but its gradient
reads two outputs that the evaluation form leaves out, the mean and the inverse standard deviation.
"""

from onnx import ModelProto, NodeProto, helper

# The outputs behind the first that the training form has.
_TRAINING_OUTPUTS = {
    "BatchNormalization": ("running_mean", "running_var"),
    "LayerNormalization": ("mean", "inv_std"),
}


def training_form(model: ModelProto) -> ModelProto:
    """A copy whose batch normalisations use batch statistics and give the new running statistics as outputs."""
    copy = _copy(model)
    for node in copy.graph.node:
        if node.op_type in _TRAINING_OUTPUTS:
            del node.output[1:]
            node.output.extend(f"{node.output[0]}.{name}" for name in _TRAINING_OUTPUTS[node.op_type])
        _set_training_mode(node, 1)
    return copy


def evaluation_form(model: ModelProto) -> ModelProto:
    """A copy whose batch normalisations use the running statistics; normalisations have one output."""
    copy = _copy(model)
    dropped: set[str] = set()
    for node in copy.graph.node:
        if node.op_type in _TRAINING_OUTPUTS:
            dropped.update(node.output[1:])
            del node.output[1:]
        _set_training_mode(node, 0)
    kept = [info for info in copy.graph.value_info if info.name not in dropped]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return copy


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _set_training_mode(node: NodeProto, value: int) -> None:
    if node.op_type != "BatchNormalization":
        return
    others = [a for a in node.attribute if a.name != "training_mode"]
    del node.attribute[:]
    node.attribute.extend([*others, *([helper.make_attribute("training_mode", value)] if value else [])])
