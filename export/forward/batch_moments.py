"""Batch normalisations in the form a train step needs: they give the moments of their batch beside the result.

A momentum of 0 makes the operator's "new running" moments those of the batch alone, which the gradient needs; running
statistics are blended from them behind it. onnxruntime writes those moments over the statistics the operator reads,
be they the caller's own arrays, so it is given others that nobody else reads.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Parameter
from export.forward.form import BATCH_NORM_MOMENTUM
from export.forward.reading import origins

_ZERO = "batch_norm.zero"


class BatchMoments:
    """A copy of `model` whose batch normalisations over parameters of the role "statistic" give the batch's moments.

    sources: by running statistic the value that holds the batch's moment, and the share of the old value that stays.

    Raises UsageError where two nodes share a running statistic.
    """

    def __init__(self, model: ModelProto, table: Sequence[Parameter]) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.sources: dict[str, tuple[str, float]] = {}
        statistics = {p.name for p in table if p.role == "statistic"}
        origin = origins(self.model.graph)
        body = list(self.model.graph.node)
        del self.model.graph.node[:]
        for node in body:
            running = [origin.get(v, "") for v in node.input[3:5]]
            if node.op_type == "BatchNormalization" and set(running) <= statistics:
                self._add(node, running)
            else:
                self.model.graph.node.append(node)
        if self.sources:
            zero = numpy_helper.from_array(np.zeros((), dtype=np.float32), _ZERO)
            self.model.graph.initializer.append(zero)

    def _add(self, node: NodeProto, running: Sequence[str]) -> None:
        share = next((a.f for a in node.attribute if a.name == "momentum"), BATCH_NORM_MOMENTUM)
        others = [a for a in node.attribute if a.name not in ("momentum", "training_mode")]
        del node.attribute[:]
        forced = [helper.make_attribute("momentum", 0.0), helper.make_attribute("training_mode", 1)]
        node.attribute.extend([*others, *forced])
        for position, (name, moment) in enumerate(zip(running, ("mean", "var"), strict=True), start=3):
            if name in self.sources:
                raise UsageError(f"two batch normalisations share the running statistic {name!r}: give each its own")
            overwritten = f"{node.output[0]}.overwritten_{moment}"
            self.model.graph.node.append(helper.make_node("Mul", [name, _ZERO], [overwritten], name=overwritten))
            node.input[position] = overwritten
            node.output.append(f"{node.output[0]}.batch_{moment}")
            self.sources[name] = (node.output[-1], share)
        self.model.graph.node.append(node)
