"""The losses as numpy has them, of every sample: what a train step minimises is their mean.

Output and targets are as a train step takes them: logits [N, classes] and class numbers int64 [N] for cross-entropy,
else two arrays of one shape, and a sample's loss is the mean over its elements. All in double precision.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.manifest import Loss

Doubles = NDArray[np.float64]


def sample_losses(loss: Loss, output: NDArray[Any], target: NDArray[Any]) -> Doubles:
    """The loss of every sample [N]."""
    losses: Doubles = _LOSSES[loss](output.astype(np.float64), target)
    return losses


def _cross_entropy(logits: Doubles, target: NDArray[Any]) -> Doubles:
    """-ln softmax(z)[label], shifted by the largest logit so that nothing overflows."""
    logits -= logits.max(axis=1, keepdims=True)
    losses: Doubles = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(target)), target]
    return losses


def _mse(output: Doubles, target: NDArray[Any]) -> Doubles:
    """(z - y)²."""
    return _per_sample((output - target) ** 2)


def _l1(output: Doubles, target: NDArray[Any]) -> Doubles:
    """|z - y|."""
    return _per_sample(np.abs(output - target))


def _bce_with_logits(output: Doubles, target: NDArray[Any]) -> Doubles:
    """-y ln sigmoid(z) - (1 - y) ln(1 - sigmoid(z)) = max(z, 0) - z y + ln(1 + e^-|z|), which overflows for no z."""
    return _per_sample(np.maximum(output, 0.0) - output * target + np.log1p(np.exp(-np.abs(output))))


def _per_sample(elements: Doubles) -> Doubles:
    means: Doubles = elements.mean(axis=tuple(range(1, elements.ndim)))
    return means


_LOSSES: Mapping[Loss, Callable[[Doubles, NDArray[Any]], Doubles]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "l1": _l1,
    "bce_with_logits": _bce_with_logits,
}
