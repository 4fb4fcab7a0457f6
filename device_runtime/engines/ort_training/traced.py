"""Traced steps of engine `ort_training`: sessions that write their trace when they are deleted, and official names.

The bindings have no call that ends a trace. Evaluation is left out: its session would write to the same file. An
optimizer in numpy is timed from outside, and one in a graph of its own has a trace of its own.
"""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_runtime.engines.ort_training.host_optimizer import HostSgd
from device_runtime.engines.ort_training.trainer import OrtTrainer
from device_runtime.engines.trace import OPTIMIZER, LayerNames, Node, Place, is_layout, plain_name, read_trace, traced
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest

_FLOAT_BYTES = 4


class TracedOrtTraining(OrtTrainer):
    """See `TracedTrainer`."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int, folder: Path) -> None:
        self._folder, self._opened, self._layers = folder, 0, LayerNames(manifest)
        self._optimizer_ns: list[int] = []
        super().__init__(artifact, manifest, threads=threads, seed=seed)

    def _make_module(self, training: str, evaluation: str) -> Any:
        self._opened += 1  # a new start of the optimizer opens everything anew: the last traces count
        return self._c.Module(training, self._state, None, self._cpu, self._traced("module"))

    def _make_optimizer(self, path: str) -> Any:
        return self._c.Optimizer(path, self._state, self._cpu, self._traced("optimizer"))

    def _traced(self, kind: str) -> Any:
        return traced(self._options(), self._folder / f"{kind}-{self._opened}")

    def _optimize(self, lr: float) -> None:
        start = time.perf_counter_ns()
        super()._optimize(lr)
        self._optimizer_ns.append(time.perf_counter_ns() - start)

    def nodes(self) -> list[Node]:
        """See `TracedTrainer`. The buffers that the views show go with the session."""
        has_host_optimizer, size_bytes = self._host_optimizer is not None, self._optimizer_bytes()
        self._values, self._gradients, self._owners = {}, {}, []
        self._module = self._graph_optimizer = self._host_optimizer = self._state = None
        nodes = self._read("module")
        if has_host_optimizer:
            durations_us = tuple(t // 1000 for t in self._optimizer_ns)
            return [*nodes, Node(f"{OPTIMIZER}/host", HostSgd.__name__, durations_us, size_bytes)]
        return nodes + [replace(node, name=f"{OPTIMIZER}/{node.name}") for node in self._read("optimizer")]

    def _read(self, kind: str) -> list[Node]:
        found = sorted(self._folder.glob(f"{kind}-{self._opened}_*.json"))
        if not found:
            raise EngineError(f"onnxruntime-training wrote no trace of its {kind}.")
        return read_trace(found[-1].read_text())

    def _optimizer_bytes(self) -> int:
        """What a step of the optimizer in numpy reads and writes: weight and velocity both ways, the gradient once."""
        count = sum(int(self._values[name].size) for name in self._trained)
        return _FLOAT_BYTES * count * (5 if self.manifest.optimizer.momentum else 3)

    def place(self, node: Node) -> Place:
        """See `TracedTrainer`."""
        return place_of(node, self._layers)


def place_of(node: Node, layers: LayerNames) -> Place:
    """The place of a node of an official training artifact."""
    name = plain_name(node.name)
    if is_layout(node.op):
        return Place("", "layout")
    if name.startswith(f"{OPTIMIZER}/"):
        return Place("", OPTIMIZER)
    if name.startswith("onnx::"):  # what the artifact's writer puts behind the model
        return Place("", "loss")
    if node.op == "InPlaceAccumulatorV2":
        return Place("", "accumulation")
    if (gate := re.match(r"(.+)\.mask(?:\.cast|ed(?:_Grad/.*)?)$", name)) and gate[1] in layers.of_mask:
        return Place(layers.of_mask[gate[1]], "masking")
    if (gradient := re.match(r"(.+?)_Grad/", name)) is not None:
        return Place(layers.longest(gradient[1]) or gradient[1], "backward")
    return Place(layers.longest(name) or name, "forward")
