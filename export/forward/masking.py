"""The pruning mask inside a forward graph: `Where(mask, weight, 0)` in front of every use of a prunable weight.

A selection rather than a product: pruned weights read exactly +0 (a product would give -0 for negative ones), and by
the chain rule their gradient is exactly 0, so no optimizer revives them. The mask is a float32 tensor because the
training session's parameter buffer is float32; every element other than 0 keeps its weight.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from device_runtime.wire.manifest import mask_name
from export.forward.reading import initializers

ZERO = "mask.zero"


def with_masks(model: ModelProto, weights: Sequence[str]) -> ModelProto:
    """A copy of a forward model that reads each of `weights` through its mask.

    Adds per weight an initializer `<weight>.mask`, float32 of the weight's shape, all ones.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if not weights:
        return copy
    tensors = initializers(copy.graph)
    gates: list[NodeProto] = []
    for weight in weights:
        mask, masked = mask_name(weight), f"{weight}.masked"
        _redirect(copy, weight, masked)
        gates.append(helper.make_node("Cast", [mask], [f"{mask}.bool"], name=f"{mask}.cast", to=TensorProto.BOOL))
        gates.append(helper.make_node("Where", [f"{mask}.bool", weight, ZERO], [masked], name=masked))
        ones = np.ones(tuple(tensors[weight].dims), dtype=np.float32)
        copy.graph.initializer.append(numpy_helper.from_array(ones, mask))
    copy.graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype=np.float32), ZERO))
    body = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend([*gates, *body])
    return copy


def _redirect(model: ModelProto, old: str, new: str) -> None:
    """Make every reader of `old` read `new`."""
    for node in model.graph.node:
        for position, value in enumerate(node.input):
            if value == old:
                node.input[position] = new
