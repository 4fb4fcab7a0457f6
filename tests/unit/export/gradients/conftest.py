"""A stepper over a portable train step by a plain inference session, as any board would run it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from device_runtime.wire.manifest import Loss, Optimizer, mask_name
from export.forward.parameters import initial_params
from export.train_step import TrainStep, train_step


class Stepper:
    """Values of parameters and states, moved on by every step."""

    def __init__(self, step: TrainStep, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> None:
        ort = pytest.importorskip("onnxruntime")
        self.step = step
        self.train = open_session(ort, step.train)
        self.evaluate = open_session(ort, step.evaluate)
        self.values: dict[str, np.ndarray] = dict(params)
        self.values |= {s.name: np.zeros(s.shape, s.dtype) for s in step.states}
        ones = {p.name: np.ones(p.shape, bool) for p in step.parameters if p.prunable}
        self.masks = {mask_name(name): masks.get(name, one) for name, one in ones.items()}
        self.anchors = {
            i.name: params[i.name.removesuffix(".anchor")]
            for i in self.train.get_inputs()
            if i.name.endswith(".anchor")
        }

    def run(self, x: np.ndarray, y: np.ndarray, rate: float) -> dict[str, Any]:
        """All outputs of one step by name; the values move on."""
        names = [o.name for o in self.train.get_outputs()]
        feed = {"input": x, "labels": y, "learning_rate": np.array(rate, np.float32)}
        results = dict(zip(names, self.train.run(names, feed | self.values | self.masks | self.anchors), strict=True))
        self.values = {name: results[f"{name}.next"] for name in self.values}
        return results

    def eval(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Loss, correct count and output of the parameters as they are."""
        names = [o.name for o in self.evaluate.get_outputs()]
        wanted = {i.name for i in self.evaluate.get_inputs()}
        feed = {"input": x, "labels": y} | {k: v for k, v in self.values.items() if k in wanted}
        return dict(zip(names, self.evaluate.run(names, feed), strict=True))


def open_session(ort: Any, model: onnx.ModelProto) -> Any:
    """A plain session on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def stepper() -> Callable[..., Stepper]:
    """Makes the train step of a model: stepper(model, optimizer, masks={}, loss=..., trainable=...)."""

    def make(
        model: onnx.ModelProto,
        optimizer: Optimizer,
        masks: Mapping[str, np.ndarray] | None = None,
        loss: Loss = "cross_entropy",
        **options: Any,
    ) -> Stepper:
        masks = masks or {}
        step = train_step(model, loss=loss, optimizer=optimizer, **options)
        params = {
            name: np.where(masks[name], v, 0) if name in masks else v for name, v in initial_params(model).items()
        }
        return Stepper(step, params, masks)

    return make
