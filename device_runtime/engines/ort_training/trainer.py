"""Engine `ort_training`: the official artifacts, through onnxruntime-training's C bindings, torch never imported.

`onnxruntime.training.api` imports torch; the bindings below it do not (see docs/explanation/engines.md). Parameters and
gradients are read and written in place, through views of the runtime's own buffers, so a step copies nothing.
"""

import ctypes
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.interface import StepStats, first_line, kept_of, manifest_for
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.engines.ort_training.host_optimizer import HostSgd
from device_runtime.engines.ort_training.kind import ORT_TRAINING
from device_runtime.engines.session import session_options
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest, mask_name
from device_runtime.wire.support import FloatArray, Kept, Support

Labels = NDArray[np.int64] | FloatArray


class OrtTrainingEngine:
    """Opens artifacts with onnxruntime-training."""

    name = ORT_TRAINING.name

    def __init__(self) -> None:
        self.version = importlib.metadata.version("onnxruntime-training-cpu")

    def open(self, artifact: Path, *, threads: int, seed: int) -> "OrtTrainer":
        """A trainer for the artifact folder, on `threads` threads. Raises EngineError when it cannot be opened."""
        manifest = manifest_for(self.name, artifact)
        try:
            return OrtTrainer(artifact, manifest, threads=threads, seed=seed)
        except RuntimeError as error:  # the bindings raise nothing more specific
            raise EngineError(f"onnxruntime-training cannot open {artifact}: {first_line(error)}") from error


class OrtTrainer:
    """One training session; see `interface.Trainer`."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int) -> None:
        ort = import_onnxruntime()
        from onnxruntime.capi import _pybind_state as bindings

        self.manifest = manifest
        self._c: Any = bindings
        ort.set_seed(seed % 2**63)
        self._cpu = bindings.OrtDevice(bindings.OrtDevice.cpu(), bindings.OrtDevice.default_memory(), 0)
        self._artifact, self._threads = artifact, threads
        self._supports: dict[str, Support] = {}
        self._open_session()

    def _options(self) -> Any:
        return session_options(self._threads, ORT_TRAINING.session_entries)

    def _make_module(self, training: str, evaluation: str) -> Any:
        return self._c.Module(training, self._state, evaluation, self._cpu, self._options())

    def _make_optimizer(self, path: str) -> Any:
        return self._c.Optimizer(path, self._state, self._cpu, self._options())

    def _open_session(self) -> None:
        """A session without history: parameters are still to be loaded, the optimizer took no step."""
        self._state = self._c.load_checkpoint(str(self._artifact / "nominal_checkpoint"))
        models = [str(self._artifact / f"{kind}_model.onnx") for kind in ("training", "eval", "optimizer")]
        self._module = self._make_module(models[0], models[1])
        self._complete_nominal_checkpoint()
        self._owners: list[Any] = []
        names = self._state.parameter_names()
        self._values = {n: self._view(self._state.get_parameter(n).data) for n in names}
        self._check_parameters()
        self._trained = [n for n in names if self._state.get_parameter(n).requires_grad]
        self._gradients = {n: self._view(self._state.get_parameter(n).grad) for n in self._trained}
        self._host_optimizer: HostSgd | None = None
        self._graph_optimizer: Any = None
        if self.manifest.optimizer.where == "host":
            self._host_optimizer = HostSgd(self.manifest.optimizer, {n: self._values[n] for n in self._trained})
        else:
            self._graph_optimizer = self._make_optimizer(models[2])
        self._has_history = False

    def _check_parameters(self) -> None:
        wanted = self.manifest.shapes() | {mask_name(n): self.manifest.shapes()[n] for n in self.manifest.prunable}
        for name, shape in wanted.items():
            if name not in self._values or self._values[name].shape != shape:
                raise EngineError(f"the artifact's graphs have no parameter {name!r} of shape {shape}.")

    def _complete_nominal_checkpoint(self) -> None:
        """A nominal checkpoint refuses every access until one full buffer was copied in; what it holds is no matter."""
        count = self._module.get_parameters_size(False)
        zeros = np.zeros(count, dtype=np.float32)  # must outlive the call: the OrtValue does not own it
        self._module.copy_buffer_to_parameters(self._c.OrtValue.ortvalue_from_numpy(zeros, self._cpu), False)

    def _view(self, value: Any) -> FloatArray:
        """A float32 array on the runtime's own buffer; the OrtValue is kept so that the buffer lives."""
        self._owners.append(value)
        shape = tuple(value.shape())
        count = int(np.prod(shape, dtype=np.int64))
        buffer = (ctypes.c_float * count).from_address(value.data_ptr())
        return np.ctypeslib.as_array(buffer).reshape(shape)

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """Set every parameter of the manifest and the masks of the prunable ones.

        Raises EngineError when a parameter is missing or has another shape.
        """
        if reset_optimizer:
            self._reset_optimizer()
        for parameter in self.manifest.parameters:
            kept = kept_of(params, parameter)
            self._supports[parameter.name] = kept.support
            self._values[parameter.name][...] = kept.dense()
            if parameter.prunable:
                self._values[mask_name(parameter.name)][...] = kept.support.dense_mask()
        self._module.lazy_reset_grad()

    def _reset_optimizer(self) -> None:
        if self._host_optimizer is not None:
            self._host_optimizer.reset()
        elif self._has_history and self.manifest.optimizer.name != "sgd":  # plain SGD in the graph has no state
            # A new Optimizer takes up the moments that the checkpoint state carries; only a new state has none.
            self._open_session()

    def step(self, x: FloatArray, y: Labels, lr: float) -> StepStats:
        """One optimizer step; see `interface.Trainer`. Raises EngineError for a batch that does not fit."""
        stats = self._run(self._module.train_step, x, y)
        self._has_history = True
        self._optimize(lr)
        self._module.lazy_reset_grad()
        return stats

    def _optimize(self, lr: float) -> None:
        if self._host_optimizer is not None:
            self._host_optimizer.step({n: self._values[n] for n in self._trained}, self._gradients, lr)
        else:
            self._graph_optimizer.set_learning_rate(lr)
            self._graph_optimizer.optimizer_step()

    def evaluate(self, x: FloatArray, y: Labels) -> StepStats:
        """Loss and correct count of a batch; see `interface.Trainer`."""
        return self._run(self._module.eval_step, x, y)

    def scores(self, x: FloatArray, y: Labels) -> dict[str, FloatArray]:
        """The gradient's magnitude, dense: under masks of ones the weights off the mask, which are 0, have one too."""
        masks = [self._values[mask_name(name)] for name in self.manifest.prunable]
        statistics = [self._values[p.name] for p in self.manifest.parameters if p.role == "statistic"]
        before = [(view, view.copy()) for view in (*masks, *statistics)]
        for mask in masks:
            mask[...] = 1.0
        try:
            self._run(self._module.train_step, x, y)
            return {name: np.abs(self._gradients[name]) for name in self.manifest.prunable}
        finally:
            for view, values in before:
                view[...] = values
            self._module.lazy_reset_grad()

    def remask(self, supports: Mapping[str, Support]) -> None:
        """Other masks in the middle of training; see `interface.Trainer`. Raises EngineError for AdamW."""
        if self._host_optimizer is None and self.manifest.optimizer.name != "sgd":
            raise EngineError("engine ort_training cannot reach AdamW's state of single weights: train with portable.")
        for name, support in supports.items():
            changed = ~(self._supports[name].dense_mask() & support.dense_mask())
            self._supports[name] = support
            self._values[mask_name(name)][...] = support.dense_mask()
            self._values[name][changed] = 0.0
            if self._host_optimizer is not None:
                self._host_optimizer.forget(name, changed)

    def _run(self, call: Any, x: FloatArray, y: Labels) -> StepStats:
        fetches = self._c.OrtValueVector()
        try:
            call([x, y], fetches)
            correct = None
            if y.dtype == np.int64:
                correct = int(np.count_nonzero(fetches[1].numpy().argmax(axis=1) == y))
            return StepStats(float(fetches[0].numpy()), len(x), correct)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:  # the latter: other outputs than expected
            raise EngineError(f"a batch x{x.shape} y{y.shape} does not fit the model: {first_line(error)}") from error

    def kept(self) -> dict[str, Kept]:
        """The parameters now, on the supports they are on, copied out of the runtime."""
        return {name: Kept.of(self._values[name], support) for name, support in self._supports.items()}
