"""One train step of a model in both forms, on the same random weights, masks and batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from device_runtime.wire.manifest import STAMP, Loss, Optimizer, kept_name, mask_name
from export.forward.model import ForwardModel
from export.steps.optimizers import choose_optimizer
from export.train_step import TrainStep, train_step

LIBRARY = pytest.importorskip("espalier_kernels").LIBRARY
# So large that what is left of the weight in the step's result is below its rounding.
READING_RATE = 1e6


@dataclass(frozen=True)
class Feed:
    """Masks by prunable parameter, and every other input, for one seed."""

    masks: Mapping[str, np.ndarray]
    params: Mapping[str, np.ndarray]
    batch: Mapping[str, np.ndarray]


def feed_of(model: ModelProto, shape: tuple[int, ...], batch: int, density: float, loss: Loss, outputs: int) -> Feed:
    """A batch, the model's initial values with biases that are not zero, and masks that keep `density`."""
    draws = np.random.default_rng(5)
    params = {
        n: v + (v == 0) * draws.normal(0, 0.1, v.shape).astype(np.float32)
        for n, v in dict(ForwardModel.of(model).initial).items()
    }
    masks = {n: draws.random(v.shape) < density for n, v in params.items()}
    y: np.ndarray = draws.integers(0, outputs, batch)
    if loss != "cross_entropy":
        y = draws.random((batch, outputs)).astype(np.float32)
    return Feed(masks, params, {"input": draws.normal(size=(batch, *shape)).astype(np.float32), "labels": y})


def session(step: TrainStep) -> Any:
    """The step's session, with the compiled operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(step.train.SerializeToString(), options, providers=["CPUExecutionProvider"])


def results(step: TrainStep, feed: Feed, rate: float, *, sparse: bool) -> dict[str, np.ndarray]:
    """Every output of one step; vectors of kept values are put back into their dense tensors."""
    given = {**feed.batch, "learning_rate": np.array(rate, np.float32)}
    for p in step.parameters:
        value = feed.params[p.name]
        given[p.name] = value
        if p.prunable and sparse:
            given[kept_name(p.name)] = np.flatnonzero(feed.masks[p.name]).astype(np.int32)
            given[p.name] = value[feed.masks[p.name]]
        elif p.prunable:
            given[mask_name(p.name)] = feed.masks[p.name]
    if sparse:
        given[STAMP] = np.array(1)
    made = session(step)
    for info in made.get_inputs():
        if info.name not in given:  # a state, or an anchor
            owner = info.name.rpartition(".")[0]
            given[info.name] = np.zeros_like(given.get(owner, np.zeros((), np.float32)))
    found = dict(zip([o.name for o in made.get_outputs()], made.run(None, given), strict=True))
    return {name: _dense(name, value, feed, sparse) for name, value in found.items()}


def _dense(name: str, value: np.ndarray, feed: Feed, sparse: bool) -> np.ndarray:
    owner = max((n for n in feed.masks if name.startswith(n + ".")), key=len, default="")
    if not sparse or value.ndim != 1 or value.shape == feed.params.get(owner, value).shape:
        return value
    dense = np.zeros(feed.masks[owner].shape, np.float32)
    dense[feed.masks[owner]] = value
    return dense


def both(
    model: ModelProto,
    shape: tuple[int, ...],
    *,
    batch: int = 7,
    density: float = 0.3,
    loss: Loss = "cross_entropy",
    outputs: int = 5,
    optimizer: Optimizer | None = None,
    rate: float = READING_RATE,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The results of the portable step and of the sparse one."""
    rule = optimizer or choose_optimizer("sgd")
    feed = feed_of(model, shape, batch, density, loss, outputs)
    steps = [train_step(model, loss=loss, optimizer=rule, sparse=sparse) for sparse in (False, True)]
    first, second = (
        results(step, feed, rate, sparse=sparse) for step, sparse in zip(steps, (False, True), strict=True)
    )
    return first, second


def assert_same(portable: Mapping[str, np.ndarray], sparse: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Every output equal up to rounding, relative to its own size."""
    assert list(portable) == list(sparse)
    for name, expected in portable.items():
        size = float(np.linalg.norm(expected)) or 1.0
        apart = float(np.linalg.norm(sparse[name] - expected)) / size
        assert apart <= tolerance, f"{name}: {apart:.1e}"
