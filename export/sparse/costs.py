"""What lists of kept weights execute for the gradient of an input, where that is more than the definition of FLOPs has.

By the definition every place of a convolution's output meets every weight once, three times over. The lists for the
gradient of the input go the other way: every place of the input meets every weight of its class, those included whose
partner lies beyond the edge of the output and is a zero of the halo.
"""

from collections.abc import Sequence

import msgspec
from onnx import ModelProto, NodeProto, helper

from device_runtime.wire.cost import NodeCost
from export.sparse.layout import DOMAIN


def with_lists(costs: Sequence[NodeCost], train: ModelProto) -> tuple[NodeCost, ...]:
    """The cost table of a sparse train step: rows of convolutions say what their lists do, with everything kept."""
    nodes = [n for n in train.graph.node if n.domain == DOMAIN and n.op_type == "ConvInputGradient"]
    # In the walk backwards the last node that reads a weight comes first.
    found: dict[str, list[int]] = {}
    for node in nodes:
        found.setdefault(node.input[1], []).append(_flops(node))
    rows = []
    for row in costs:
        mine = found.get(row.weight, []) if row.op == "Conv" and row.flops_backward_input else []
        rows.append(msgspec.structs.replace(row, flops_lists_input=mine.pop()) if mine else row)
    return tuple(rows)


def _flops(node: NodeProto) -> int:
    """Two per weight and place of the input's map that the weight's tap falls on, for one sample."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    (channels, *size), outputs = given["x"][:3], given["y"][0]
    pairs = outputs * (channels // given.get("group", 1))
    places = [0, 0]
    for axis in range(2):
        stride, before, dilation = (given[name][axis] for name in ("strides", "before", "dilations"))
        phases = [(tap * dilation - before) % stride for tap in range(given["kernel"][axis])]
        places[axis] = sum(-(-(size[axis] - phase) // stride) for phase in phases)
    return 2 * int(pairs) * places[0] * places[1]
