"""onnxruntime's profile of a train step, read and joined to the artifact's layers by node name.

The traps: durations are whole microseconds, so a mean over many steps is taken (the same steps for
every node, so that means add up); profiling adds about
the time of its cheapest node to every node; graph optimisation renames ("fused conv1", "conv1_token_3", "pool1_nchwc")
and pads shapes, so FLOPs come from the cost table and never from the profile's shapes; older releases report two empty
fence events per node.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_runtime.wire.errors import EngineError

_KERNEL = "_kernel_time"
_ITEM_BYTES = {"float": 4, "double": 8, "float16": 2, "bfloat16": 2, "bool": 1}
_ITEM_BYTES |= {f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}
_REWRITES = re.compile(r"(_token_\d+|_nchwc|/MatmulTransposeFusion/?|/MatMulScaleFusion/?)+$")
OPTIMIZER = "optimizer"
PARTS = ("forward", "backward", "masking", "loss", "accumulation", OPTIMIZER, "statistics", "layout")
_LAYOUT = ("ReorderInput", "ReorderOutput")


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the graph that ran: duration of every step in µs, and the bytes it read and wrote."""

    name: str
    op: str
    durations_us: tuple[int, ...]
    tensor_bytes: int

    def mean_us(self, steps: Sequence[int]) -> float:
        """Its mean duration in these steps; in all, where it did not run once per step."""
        durations = [self.durations_us[i] for i in steps if i < len(self.durations_us)]
        chosen = durations if len(durations) == len(steps) else self.durations_us
        return sum(chosen) / len(chosen)


@dataclass(frozen=True, slots=True)
class Place:
    """Which layer, and which part of the step, a node belongs to."""

    layer: str
    part: str


def read_trace(text: str) -> list[Node]:
    """The nodes of a profile in the order they first ran. Raises EngineError where it is no such profile."""
    try:
        events = [e for e in json.loads(text) if e.get("cat") == "Node" and str(e.get("name")).endswith(_KERNEL)]
        order: dict[str, list[int]] = {}
        about: dict[str, tuple[str, int]] = {}
        for event in events:
            name, arguments = event["name"].removesuffix(_KERNEL), event.get("args", {})
            order.setdefault(name, []).append(int(event["dur"]))
            if name not in about:
                moved = _bytes(arguments.get("input_type_shape")) + _bytes(arguments.get("output_type_shape"))
                about[name] = (str(arguments.get("op_name", "")), moved)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"onnxruntime's profile cannot be read: {error}.") from error
    return [Node(name, about[name][0], tuple(durations), about[name][1]) for name, durations in order.items()]


def _bytes(shapes: object) -> int:
    """Bytes of a list such as [{"float": [32, 6, 28, 28]}]; an unknown type counts nothing."""
    tensors = shapes if isinstance(shapes, list) else []
    return sum(_ITEM_BYTES.get(kind, 0) * math.prod(dims) for tensor in tensors for kind, dims in tensor.items())


def middle_half(values: Sequence[float]) -> list[int]:
    """The indices of the middle half of the values: of steps chosen so, the means of the nodes sum to the mean step.

    >>> middle_half([50, 10, 900, 20])
    [0, 3]
    """
    ordered = sorted(range(len(values)), key=lambda i: values[i])
    cut = len(ordered) // 4
    return sorted(ordered[cut : len(ordered) - cut])


def place_of(name: str, op: str, layers: Sequence[str], masked: Sequence[str]) -> Place:
    """The place of the node `name`: `layers` are the cost table's nodes, `masked` the layer of each mask in order.

    >>> place_of("gradient/fc1/Gemm_1", "Gemm", ["fc1"], ["fc1"])
    Place(layer='fc1', part='backward')
    >>> place_of("mask/Where_1", "Where", ["fc1", "fc2"], ["fc1", "fc2"])
    Place(layer='fc2', part='masking')
    """
    plain = _REWRITES.sub("", name).removeprefix("fused ")
    if op in _LAYOUT:
        return Place("", "layout")
    if mask := re.match(r"(?:gradient/)?mask/Where(?:_(\d+))?(?:/|$)", plain):
        index = int(mask[1] or 0)
        return Place(masked[index] if index < len(masked) else "", "masking")
    for part in ("loss", "optimizer", "statistics"):
        if plain.startswith(f"{part}/"):
            return Place("", part)
    if plain.startswith("gradient/"):
        inner = plain.removeprefix("gradient/")
        return Place(_longest(inner, layers) or inner.rpartition("/")[0], "backward")
    return Place(_longest(plain, layers) or plain, "forward")


def place_of_official(name: str, op: str, layers: Sequence[str], layer_of: Mapping[str, str]) -> Place:
    """The place of a node of an official training artifact: `layer_of` has the layer of each masked weight.

    >>> place_of_official("fc1_Grad/Gemm_1", "Gemm", ["fc1"], {})
    Place(layer='fc1', part='backward')
    >>> place_of_official("fc1.weight.masked_Grad/Where_1", "Where", ["fc1"], {"fc1.weight": "fc1"})
    Place(layer='fc1', part='masking')
    """
    plain = _REWRITES.sub("", name).removeprefix("fused ")
    if op in _LAYOUT:
        return Place("", "layout")
    if plain.startswith(f"{OPTIMIZER}/"):
        return Place("", OPTIMIZER)
    if plain.startswith("onnx::"):  # what the artifact's writer puts behind the model
        return Place("", "loss")
    if op == "InPlaceAccumulatorV2":
        return Place("", "accumulation")
    if (gate := re.match(r"(.+)\.mask(?:\.cast|ed(?:_Grad/.*)?)$", plain)) and gate[1] in layer_of:
        return Place(layer_of[gate[1]], "masking")
    if (gradient := re.match(r"(.+?)_Grad/", plain)) is not None:
        return Place(_longest(gradient[1], layers) or gradient[1], "backward")
    return Place(_longest(plain, layers) or plain, "forward")


def _longest(name: str, layers: Sequence[str]) -> str:
    """The most specific layer that `name` is, or lies within."""
    return max((n for n in layers if name == n or name.startswith(f"{n}/")), key=len, default="")
