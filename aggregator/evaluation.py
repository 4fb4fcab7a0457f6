"""Accuracy and loss of many parameter sets of one model on held-out data, through one inference session."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.data import Samples
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.wire.support import FloatArray

BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class Score:
    """Share classified right (None for regression) and mean loss."""

    accuracy: float | None
    loss: float


class Evaluator:
    """Holds the parameterised forward graph and the held-out samples."""

    def __init__(self, forward: bytes, held_out: Samples, *, threads: int) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(forward, options, providers=["CPUExecutionProvider"])
        self._held_out = held_out

    def score(self, params: Mapping[str, FloatArray]) -> Score:
        """Evaluate one parameter set; the session's inputs are `input` and every parameter name."""
        x, y = self._held_out.x, self._held_out.y
        loss_sum, correct = 0.0, 0
        for start in range(0, len(x), BATCH_SIZE):
            target = y[start : start + BATCH_SIZE]
            feeds = {"input": x[start : start + BATCH_SIZE], **params}
            (output,) = self._session.run(["output"], feeds)
            loss_sum += _loss_sum(output, target)
            if target.dtype == np.int64:
                correct += int(np.count_nonzero(output.argmax(axis=1) == target))
        accuracy = correct / len(x) if y.dtype == np.int64 else None
        return Score(accuracy, loss_sum / len(x))


def _loss_sum(output: FloatArray, target: NDArray[np.int64] | FloatArray) -> float:
    """Softmax cross-entropy of logits against class numbers, or squared error, summed over samples."""
    if target.dtype == np.int64:
        logits = output.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        return float((log_sum - logits[np.arange(len(target)), target.astype(np.int64)]).sum())
    error = output.astype(np.float64) - target
    return float((error**2).mean(axis=tuple(range(1, error.ndim))).sum())
