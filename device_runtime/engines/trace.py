"""onnxruntime's trace of a train step: every node that ran, what it cost, and the layer of the model that it serves.

onnxruntime calls it a profile, a word that has another meaning here. The traps: durations are whole microseconds, so a
mean over many steps is taken (the same steps for every node, so that means add up); tracing adds about the time of its
cheapest node to every node; graph optimisation renames ("fused conv1", "conv1_token_3", "pool1_nchwc") and pads shapes,
so FLOPs come from the cost table and never from the trace's shapes; older releases report two empty fence events per
node.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from device_runtime.engines.interface import StepStats
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.support import FloatArray, Kept

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


class TracedTrainer(Protocol):
    """A trainer that keeps the trace of every node that it runs; its options are otherwise those of `Trainer`."""

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """As `interface.Trainer`."""

    def step(self, x: FloatArray, y: Any, lr: float) -> StepStats:
        """As `interface.Trainer`."""

    def nodes(self) -> list[Node]:
        """Every node that ran, its durations of all steps. Ends the trainer. Raises EngineError for a trace that
        cannot be read."""

    def place(self, node: Node) -> Place:
        """Where a node belongs."""


class LayerNames:
    """The layers of an artifact that a node's name can point to: those of the cost table, and those of the masks."""

    def __init__(self, manifest: Manifest) -> None:
        by_weight = {row.weight: row.node for row in manifest.costs}
        self.names = tuple(row.node for row in manifest.costs)
        self.of_mask = {name: by_weight.get(name, name) for name in manifest.prunable}

    def longest(self, name: str) -> str:
        """The most specific layer that `name` is, or lies within; "" where there is none."""
        return max((n for n in self.names if name == n or name.startswith(f"{n}/")), key=len, default="")


def traced(options: Any, prefix: Path) -> Any:
    """Session options that also write the trace, into a file whose path begins with `prefix`."""
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def read_trace(text: str) -> list[Node]:
    """The nodes of a trace in the order they first ran. Raises EngineError where it is no such trace."""
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
        raise EngineError(f"onnxruntime's trace cannot be read: {error}.") from error
    return [Node(name, about[name][0], tuple(durations), about[name][1]) for name, durations in order.items()]


def _bytes(shapes: object) -> int:
    """Bytes of a list such as [{"float": [32, 6, 28, 28]}]; an unknown type counts nothing."""
    tensors = shapes if isinstance(shapes, list) else []
    return sum(_ITEM_BYTES.get(kind, 0) * math.prod(dims) for tensor in tensors for kind, dims in tensor.items())


def plain_name(name: str) -> str:
    """A node's name as the artifact's writer gave it, without what graph optimisation made of it.

    >>> plain_name("fused conv1_token_3")
    'conv1'
    """
    return _REWRITES.sub("", name).removeprefix("fused ")


def is_layout(op: str) -> bool:
    """Whether an operator only changes how values lie in memory, which optimisation puts between layers."""
    return op in _LAYOUT
