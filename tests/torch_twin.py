"""A torch module that computes what a forward ONNX graph of the zoo computes: the oracle and the peer of benchmarks.

Runs in the torch environment, which needs torch, onnx and numpy only.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as f


class TorchTwin(torch.nn.Module):
    """Nodes of the graph in order, each by torch's own function; parameters under their ONNX names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._nodes = list(model.graph.node)
        self._output = model.graph.output[0].name
        self.tensors: dict[str, torch.Tensor] = {}
        for tensor in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if "running_" in tensor.name:
                self.tensors[tensor.name] = value
            else:
                self.tensors[tensor.name] = torch.nn.Parameter(value)
                self.register_parameter(tensor.name.replace(".", "|"), self.tensors[tensor.name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        values: dict[str, Any] = {"input": x, **self.tensors}
        for node in self._nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] if name else None for name in node.input]
            values[node.output[0]] = self._run(node.op_type, inputs, attributes)
        return values[self._output]

    def _run(self, op: str, v: list[Any], a: dict[str, Any]) -> torch.Tensor:
        if op == "Conv":
            conv = f.conv1d if v[0].dim() == 3 else f.conv2d
            half = len(a["pads"]) // 2 if "pads" in a else 0
            assert not half or a["pads"][:half] == a["pads"][half:], "symmetric padding only"
            padding = tuple(a["pads"][:half]) if half else 0
            return conv(v[0], v[1], v[2] if len(v) > 2 else None, tuple(a.get("strides", [1])), padding,
                        tuple(a.get("dilations", [1])), a.get("group", 1))  # fmt: skip
        if op == "MaxPool":
            pool = f.max_pool1d if v[0].dim() == 3 else f.max_pool2d
            return pool(v[0], tuple(a["kernel_shape"]), tuple(a.get("strides", a["kernel_shape"])))
        if op == "BatchNormalization":
            return f.batch_norm(v[0], v[3], v[4], v[1], v[2], self.training, 1 - a.get("momentum", 0.9), a["epsilon"])
        if op == "Gemm":
            return f.linear(v[0], v[1] if a.get("transB") else v[1].T, v[2])
        simple = {
            "Relu": lambda: f.relu(v[0]),
            "Flatten": lambda: v[0].flatten(1),
            "GlobalAveragePool": lambda: v[0].mean(tuple(range(2, v[0].dim())), keepdim=True),
            "Add": lambda: v[0] + v[1],
        }
        return simple[op]()


def as_batch(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """numpy batch as torch tensors."""
    return torch.from_numpy(x), torch.from_numpy(y)
