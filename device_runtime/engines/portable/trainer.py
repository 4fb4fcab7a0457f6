"""Engine `portable`: a train step written in standard operators, run by any onnxruntime from 1.19 on.

Parameters and optimizer state live in two sets of the runtime's own buffers. A step reads one set and writes the other;
then they change places. Nothing passes through Python but the batch, the learning rate and two numbers.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.interface import StepStats, first_line, kept_of, manifest_for
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.engines.portable.kind import PORTABLE
from device_runtime.engines.session import session_options
from device_runtime.engines.subnormals import subnormals_as_zero
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import SCORES_FILE, Manifest, mask_name
from device_runtime.wire.support import FloatArray, Kept, Support

Labels = NDArray[np.int64] | FloatArray
Array = NDArray[Any]


class PortableEngine:
    """Opens portable artifacts with whichever onnxruntime is installed."""

    name = PORTABLE.name

    def __init__(self) -> None:
        self.version = str(import_onnxruntime().__version__)

    def open(self, artifact: Path, *, threads: int, seed: int) -> "PortableTrainer":
        """A trainer for the artifact folder, on `threads` threads. Raises EngineError when it cannot be opened."""
        return PortableTrainer(artifact, manifest_for(self.name, artifact), threads=threads, seed=seed)


class Buffers:
    """Named tensors in the runtime's memory, each with a numpy view on the same bytes."""

    def __init__(self, ort: Any) -> None:
        self._ort = ort
        self.values: dict[str, Any] = {}
        self.views: dict[str, Array] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """A zeroed tensor."""
        kind = np.dtype(dtype)
        value = self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind.type, "cpu")
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(value.data_ptr()))
        self.values[name] = value
        self.views[name] = raw.view(kind).reshape(shape)
        self.views[name][...] = 0


class PortableTrainer:
    """One session of the train step; see `interface.Trainer`."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int) -> None:
        self._ort = import_onnxruntime()
        self.manifest = manifest
        self._ort.set_seed(seed % 2**31)
        self._artifact, self._threads = artifact, threads
        self._session = self._open("train_step.onnx")
        self._evaluation: Any = None
        self._scoring: Any = None
        self._supports: dict[str, Support] = {}
        self._allocate()

    def _allocate(self) -> None:
        """Buffers for all that the step reads and writes, bound to the session."""
        self._fixed = Buffers(self._ort)
        for parameter in self.manifest.parameters:
            if parameter.prunable:
                self._fixed.add(mask_name(parameter.name), parameter.shape, "bool")
            if self.manifest.optimizer.proximal_mu and parameter.role != "statistic":
                self._fixed.add(f"{parameter.name}.anchor", parameter.shape, "float32")
        self._fixed.add("learning_rate", (), "float32")
        self._fixed.add("loss", (), "float32")
        self._fixed.add("correct", (), "int64")
        self._sets = (self._make_set(), self._make_set())
        self._bindings = (self._bind(0), self._bind(1))
        self._now = 0

    def _options(self) -> Any:
        """The session options; a traced run adds to them."""
        return session_options(self._threads, PORTABLE.session_entries)

    def _open(self, file: str) -> Any:
        path = str(self._artifact / file)
        try:
            with subnormals_as_zero():
                return self._ort.InferenceSession(path, self._options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise EngineError(f"onnxruntime cannot open {path}: {first_line(error)}") from error

    def _make_set(self) -> Buffers:
        """Parameters and state, once."""
        buffers = Buffers(self._ort)
        for parameter in self.manifest.parameters:
            buffers.add(parameter.name, parameter.shape, "float32")
        for state in self.manifest.states:
            buffers.add(state.name, state.shape, state.dtype)
        return buffers

    def _bind(self, source: int) -> Any:
        """Everything but the batch: read from set `source`, write to the other."""
        binding = self._session.io_binding()
        names = {i.name for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        for name, value in (*self._sets[source].values.items(), *self._fixed.values.items()):
            if name in names:
                binding.bind_ortvalue_input(name, value)
        for name, value in self._sets[1 - source].values.items():
            binding.bind_ortvalue_output(f"{name}.next", value)
        for name in ("loss", "correct"):
            if name in outputs:
                binding.bind_ortvalue_output(name, self._fixed.values[name])
        return binding

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """Set every parameter of the manifest and the masks of the prunable ones.

        Raises EngineError when a parameter is missing or has another shape.
        """
        current = self._sets[self._now].views
        for parameter in self.manifest.parameters:
            kept = kept_of(params, parameter)
            self._supports[parameter.name] = kept.support
            current[parameter.name][...] = kept.dense()
            if parameter.prunable:
                self._fixed.views[mask_name(parameter.name)][...] = kept.support.dense_mask()
            anchor = self._fixed.views.get(f"{parameter.name}.anchor")
            if anchor is not None:
                anchor[...] = current[parameter.name]
        if reset_optimizer:
            for state in self.manifest.states:
                current[state.name][...] = 0

    def step(self, x: FloatArray, y: Labels, lr: float) -> StepStats:
        """One optimizer step; see `interface.Trainer`. Raises EngineError for a batch that does not fit."""
        self._fixed.views["learning_rate"][...] = lr
        binding = self._bindings[self._now]
        batch = {"input": np.ascontiguousarray(x), "labels": np.ascontiguousarray(y)}  # read where they are
        try:
            for name, values in batch.items():
                binding.bind_cpu_input(name, values)
            with subnormals_as_zero():
                self._session.run_with_iobinding(binding)
        except Exception as error:  # see `_open`
            raise EngineError(f"a batch x{x.shape} y{y.shape} does not fit the model: {first_line(error)}") from error
        self._now = 1 - self._now
        correct = int(self._fixed.views["correct"]) if y.dtype == np.int64 else None
        return StepStats(float(self._fixed.views["loss"]), len(x), correct)

    def _parameters(self) -> dict[str, Array]:
        """Every parameter of the manifest now, dense."""
        current = self._sets[self._now].views
        return {p.name: current[p.name] for p in self.manifest.parameters}

    def evaluate(self, x: FloatArray, y: Labels) -> StepStats:
        """Loss and correct count of a batch; see `interface.Trainer`."""
        if self._evaluation is None:
            self._evaluation = self._open("eval.onnx")
        feeds = {"input": x, "labels": y, **self._parameters()}
        names = ["loss", "correct"] if y.dtype == np.int64 else ["loss"]
        try:
            with subnormals_as_zero():
                found = self._evaluation.run(names, feeds)
        except Exception as error:  # see `_open`
            raise EngineError(f"a batch x{x.shape} y{y.shape} does not fit the model: {first_line(error)}") from error
        return StepStats(float(found[0]), len(x), int(found[1]) if len(found) > 1 else None)

    def scores(self, x: FloatArray, y: Labels) -> dict[str, FloatArray]:
        """The gradient's magnitude, by a graph of its own; see `interface.Trainer`."""
        if self._scoring is None:
            if SCORES_FILE not in {file.name for file in self.manifest.files}:
                raise EngineError("the artifact was made without scores: masks cannot be moved on this device.")
            self._scoring = self._open(SCORES_FILE)
        feeds = {"input": x, "labels": y, **self._parameters()}
        names = [output.name for output in self._scoring.get_outputs()]
        try:
            with subnormals_as_zero():
                found = dict(zip(names, self._scoring.run(names, feeds), strict=True))
        except Exception as error:  # see `_open`
            raise EngineError(f"a batch x{x.shape} y{y.shape} does not fit the model: {first_line(error)}") from error
        return {name: np.abs(found[f"{name}.gradient"]) for name in self.manifest.prunable}

    def remask(self, supports: Mapping[str, Support]) -> None:
        """Other masks in the middle of training; see `interface.Trainer`."""
        current = self._sets[self._now].views
        states = [s.name for s in self.manifest.states]
        for name, support in supports.items():
            changed = ~(self._supports[name].dense_mask() & support.dense_mask())
            self._supports[name] = support
            self._fixed.views[mask_name(name)][...] = support.dense_mask()
            for held in (name, *(s for s in states if s.rpartition(".")[0] == name)):
                current[held][changed] = 0

    def kept(self) -> dict[str, Kept]:
        """The parameters now, on the supports they are on, copied out of the runtime."""
        current = self._sets[self._now].views
        return {name: Kept.of(current[name], support) for name, support in self._supports.items()}
