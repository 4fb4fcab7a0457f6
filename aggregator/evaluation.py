"""Accuracy and loss of many parameter sets of one model on held-out data, through one inference session."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.core.losses import sample_losses
from device_runtime.data import Samples
from device_runtime.engines.session import open_session
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Loss
from device_runtime.wire.support import FloatArray

BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class Score:
    """Share classified right (None for regression) and the mean loss, the one that devices minimise."""

    accuracy: float | None
    loss: float


class Evaluator:
    """Holds the parameterised forward graph and the held-out samples."""

    def __init__(self, forward: bytes, held_out: Samples, loss: Loss, *, threads: int) -> None:
        self._session = open_session(forward, threads)
        self._held_out = held_out
        self._loss: Loss = loss

    def score(self, params: Mapping[str, FloatArray]) -> Score:
        """Evaluate one parameter set; the session's inputs are `input` and every parameter name.

        Raises UsageError for targets that do not fit the model's output.
        """
        x, y = self._held_out.x, self._held_out.y
        loss_sum, correct = 0.0, 0
        for start in range(0, len(x), BATCH_SIZE):
            target = y[start : start + BATCH_SIZE]
            feeds = {"input": x[start : start + BATCH_SIZE], **params}
            (output,) = self._session.run(["output"], feeds)
            loss_sum += float(sample_losses(self._loss, output, self._fitting(target, output)).sum())
            if self._loss == "cross_entropy":
                correct += int(np.count_nonzero(output.argmax(axis=1) == target))
        return Score(correct / len(x) if self._loss == "cross_entropy" else None, loss_sum / len(x))

    def _fitting(self, target: NDArray[Any], output: NDArray[Any]) -> NDArray[Any]:
        """The targets in the output's shape: numpy would stretch what does not fit, and the loss would be none."""
        if self._loss == "cross_entropy":
            return target
        if target.size != output.size:
            raise UsageError(
                f"the held-out targets have {target[0].size} values per sample and the model gives {output[0].size}: "
                "give one target per output."
            )
        return target.reshape(output.shape)


class StatisticsEstimator:
    """Re-estimates the running statistics of a model from given samples, for parameters it was not trained with.

    The dense, restored model has other activations than the sparse one whose statistics the devices gathered.
    """

    def __init__(self, graph: bytes, x: FloatArray, *, threads: int) -> None:
        self._session = open_session(graph, threads)
        self._x = x

    def with_statistics(self, params: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """`params` with every running mean and variance replaced by those of the samples.

        Batches are pooled: mean = E[m], variance = E[v + m^2] - E[m]^2, weighted by batch size.
        """
        names = [output.name for output in self._session.get_outputs()]
        pairs = list(zip(names[0::2], names[1::2], strict=True))  # mean and variance of each normalisation
        first: dict[str, Any] = dict.fromkeys(names, np.float64(0.0))
        for start in range(0, len(self._x), BATCH_SIZE):
            batch = self._x[start : start + BATCH_SIZE]
            values = dict(zip(names, self._session.run(names, {"input": batch, **params}), strict=True))
            share = len(batch) / len(self._x)
            for mean, variance in pairs:
                m, v = values[mean].astype(np.float64), values[variance].astype(np.float64)
                first[mean] = first[mean] + share * m
                first[variance] = first[variance] + share * (v + m**2)
        for mean, variance in pairs:
            first[variance] = np.maximum(first[variance] - first[mean] ** 2, 0.0)
        return {**params, **{n.removesuffix(".batch"): v.astype(np.float32) for n, v in first.items()}}
