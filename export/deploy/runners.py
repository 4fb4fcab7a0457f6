"""Running a deployed file, ONNX or TFLite, behind one face: float32 channels-first samples in, float32 out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from device_runtime.engines.session import open_session
from device_runtime.wire.errors import EngineError, UsageError
from device_runtime.wire.support import FloatArray
from export.deploy.net import Shape
from export.deploy.provenance import METADATA_KEY, Provenance, decode_provenance, file_kind
from export.extras import require
from export.tflite.reading import read_metadata

_BATCH = 64


class Runner(Protocol):
    """An open model: the shape of one sample, what the file says of itself, and how to run it.

    sample_shape is channels first where the file is ours, and as the file keeps it otherwise.
    """

    sample_shape: Shape
    provenance: Provenance | None

    def run(self, x: FloatArray) -> FloatArray:
        """Outputs [N, ...], channels first, for samples [N, ...], channels first, both float32."""
        ...

    def ready(self, sample: FloatArray) -> Callable[[], object]:
        """What runs one sample [1, ...], already handed over, and nothing else: for the clock."""
        ...


def open_runner(path: Path, threads: int = 1) -> Runner:
    """Open a file in its runtime: onnxruntime, or LiteRT.

    Raises UsageError when the runtime is not installed or refuses the file.
    """
    try:
        return TfliteRunner(path, threads) if file_kind(path) == "tflite" else OnnxRunner(path, threads)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{path} does not run ({str(error).strip().partition(chr(10))[0]}): export it again"
        ) from error


class OnnxRunner:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            self._session = open_session(str(path), threads)
        except EngineError:
            raise
        except Exception as error:  # onnxruntime's own family, whose base is not public
            raise RuntimeError(str(error)) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise ValueError("it has not one float32 input")
        self._input = inputs[0].name
        self._fixed = isinstance(inputs[0].shape[0], int)
        self.sample_shape = tuple(n if isinstance(n, int) else 1 for n in inputs[0].shape[1:])
        found = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.provenance = decode_provenance(found.encode() if found else None)

    def run(self, x: FloatArray) -> FloatArray:
        """See Runner."""
        check_fits(x.shape[1:], self.sample_shape)
        size = 1 if self._fixed else _BATCH
        parts = [self._session.run(None, {self._input: x[i : i + size]})[0] for i in range(0, len(x), size)]
        result: FloatArray = np.concatenate(parts).astype(np.float32)
        return result

    def ready(self, sample: FloatArray) -> Callable[[], object]:
        """See Runner."""
        feed = {self._input: sample}
        return lambda: self._session.run(None, feed)


class TfliteRunner:
    """A TFLite file in LiteRT, one sample at a time; quantised inputs and outputs are converted."""

    def __init__(self, path: Path, threads: int) -> None:
        litert = require("ai_edge_litert.interpreter", "tflite")
        self._interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError("it has not one input and one output")
        self._input, self._output = inputs[0], outputs[0]
        self._stored_shape = tuple(int(n) for n in self._input["shape"][1:])
        self.provenance = decode_provenance(read_metadata(path.read_bytes()).get(METADATA_KEY))
        self._declared = self.provenance is not None and self.provenance.layout == "channels_last"
        self.sample_shape = channels_first(self._stored_shape) if self._declared else self._stored_shape

    def run(self, x: FloatArray) -> FloatArray:
        """See Runner."""
        stored, moved = self._stored(x)
        results = np.concatenate([self._run_one(stored[i : i + 1]) for i in range(len(stored))])
        back = np.moveaxis(results, -1, 1) if moved and results.ndim > 2 else results
        return np.ascontiguousarray(back)

    def ready(self, sample: FloatArray) -> Callable[[], object]:
        """See Runner."""
        self._run_one(self._stored(sample)[0])
        invoke: Callable[[], object] = self._interpreter.invoke
        return invoke

    def _stored(self, x: FloatArray) -> tuple[FloatArray, bool]:
        """Samples as the file keeps them, and whether their channels had to be moved for that."""
        last = channels_last(x.shape[1:])
        moved = self._declared or (x.shape[1:] != self._stored_shape and last == self._stored_shape)
        check_fits(last if moved else x.shape[1:], self._stored_shape)
        return (np.moveaxis(x, 1, -1) if moved else x), moved

    def _run_one(self, sample: FloatArray) -> FloatArray:
        self._interpreter.set_tensor(self._input["index"], _to_stored(sample, self._input))
        self._interpreter.invoke()
        value = self._interpreter.get_tensor(self._output["index"])
        scale, zero = self._output["quantization"]
        if scale:
            value = (value.astype(np.float32) - zero) * np.float32(scale)
        result: FloatArray = value.astype(np.float32)
        return result


def _to_stored(sample: FloatArray, details: dict[str, Any]) -> Any:
    scale, zero = details["quantization"]
    if not scale:
        return np.ascontiguousarray(sample, dtype=details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(sample / np.float32(scale)) + zero
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


def channels_last(shape: Shape) -> Shape:
    """The shape of a sample with its channels behind.

    >>> channels_last((3, 32, 16))
    (32, 16, 3)
    """
    return (*shape[1:], shape[0]) if len(shape) > 1 else shape


def channels_first(shape: Shape) -> Shape:
    """The shape of a sample with its channels in front, the inverse of `channels_last`."""
    return (shape[-1], *shape[:-1]) if len(shape) > 1 else shape


def check_fits(given: Shape, wanted: Shape) -> None:
    """Raise UsageError when samples of shape `given` do not fit an input of shape `wanted`."""
    if given != wanted:
        raise UsageError(f"samples of shape {given} do not fit an input of shape {wanted}: give data that fits")
