"""A torch model written as TFLite by litert-torch, for models whose operators our own writer does not know.

litert-torch is Google's converter from torch.export to LiteRT (formerly ai-edge-torch). It brings jax and an MLIR
compiler, over a gigabyte beside torch, and exists for x86-64 only; nothing else here needs it.
"""

import copy
import importlib.util
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from device_runtime.wire.errors import UsageError
from export.deploy.net import Shape
from export.deploy.runners import channels_last
from export.extras import require
from export.forward.form import INPUT, OUTPUT
from export.forward.model import ForwardModel
from export.models.torch_import import make_module, set_tensors
from export.tflite.flatbuffer import load_schema, pack, set_metadata
from export.tflite.quiet import quiet
from export.tflite.reading import read_model, text

_MODULE = "litert_torch"
_PACKAGE = "litert-torch"


def converter() -> str:
    """The converter's name and version. Raises UsageError when it is not installed."""
    _load()
    return f"{_PACKAGE} {version(_PACKAGE)}"


def convert_torch(spec: str, model: ForwardModel, shape: Shape, metadata: Mapping[str, bytes]) -> bytes:
    """The torch model of `spec`, "package.module:factory", as a TFLite file with metadata entries.

    Its tensors get the values that `model`, the forward graph traced from it, has under their names, so that a run
    gives what was trained, and a factory that draws its values anew each time does no harm. shape is that of one
    sample, channels first; the file takes one sample, channels last, float32. Input and output are called `input` and
    `output`, as in files of our own writer.

    Raises UsageError when litert-torch is not installed or cannot convert the model, and when the model has other
    tensors than `model`.
    """
    litert_torch = _load()
    module = copy.deepcopy(make_module(spec))  # a module that the factory shares stays as it is
    set_tensors(
        module, _values(model, {name for name, _ in (*module.named_parameters(), *module.named_buffers())}), spec
    )
    try:
        with quiet():
            data = _convert(litert_torch, module, shape)
    except Exception as error:  # torch.export, jax and the MLIR passes have no common base
        reason = str(error).strip().partition("\n")[0][:300]
        raise UsageError(
            f"litert-torch cannot convert {spec} ({type(error).__name__}: {reason}): "
            "leave out --via, or export it as ONNX"
        ) from error
    return _renamed(data, metadata)


def _load() -> Any:
    if importlib.util.find_spec(_MODULE) is None and platform.machine() != "x86_64":
        raise UsageError(f"{_PACKAGE} has no build for {platform.machine()}: export on an x86-64 machine")
    with quiet():
        return require(_MODULE, _PACKAGE)


def _values(model: ForwardModel, names: set[str]) -> dict[str, np.ndarray]:
    """What was trained, running statistics, and what torch does not train: constants under a tensor's name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in names:
            (value,) = node.attribute
            found[node.output[0]] = numpy_helper.to_array(value.t)
    return found


def _convert(litert_torch: Any, module: Any, shape: Shape) -> bytes:
    """The file's bytes for a batch of one."""
    torch = require("torch", "torch")

    class ChannelsLast(torch.nn.Module):  # type: ignore[misc,name-defined]
        """The module with the channels of its input and output behind; the converter moves what it can."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            """Outputs [1, ..., channels] for inputs [1, ..., channels]."""
            y = self.inner(x.movedim(-1, 1) if x.dim() > 2 else x)
            return y.movedim(1, -1) if y.dim() > 2 else y

    sample = torch.zeros((1, *channels_last(shape)), dtype=torch.float32)
    edge = litert_torch.convert(ChannelsLast().eval(), (sample,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        edge.export(str(path))
        return path.read_bytes()


def _renamed(data: bytes, metadata: Mapping[str, bytes]) -> bytes:
    """The file with our names at its border, in the signature and in the graph, and our metadata."""
    model = read_model(data)
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UsageError("litert-torch wrote a file without one input and one output: give a model that has one each")
    for tensor in graph.tensors:  # the quantiser tells tensors apart by their names
        if text(tensor.name) in (INPUT, OUTPUT):
            tensor.name = f"{text(tensor.name)}.inside"
    for name, (index,), entries in (
        (INPUT, graph.inputs, model.signatureDefs[0].inputs),
        (OUTPUT, graph.outputs, model.signatureDefs[0].outputs),
    ):
        graph.tensors[index].name = entries[0].name = name
    set_metadata(load_schema(), model, metadata)
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, dtype=np.uint8)
    return pack(model)
