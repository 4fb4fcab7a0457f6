"""The mask of the largest scores: one way to choose for both ends, exact, with ties in flat order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import UsageError

Mask = NDArray[np.bool_]


def largest(scores: NDArray[np.floating[Any]], count: int) -> Mask:
    """The mask of the `count` largest scores, in the shape of `scores`; ties go to the lower flat index.

    Exact and deterministic, O(n): a partition finds the threshold, ties at it are filled in flat order. Raises
    UsageError when a score is NaN or `count` is outside [0, scores.size].
    """
    flat = scores.ravel()
    if not 0 <= count <= flat.size:
        raise UsageError(f"{count} weights cannot be kept of a layer of {flat.size}; correct the counts")
    if np.isnan(flat).any():
        raise UsageError("a pruning score is not a number; check the model's weights")
    if count in (0, flat.size):
        return np.full(scores.shape, count > 0)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask: Mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: count - int(np.count_nonzero(mask))]] = True
    shaped: Mask = mask.reshape(scores.shape)
    return shaped


def largest_kept(scores: NDArray[np.floating[Any]], mask: Mask, count: int) -> Mask:
    """The mask of the `count` largest scores among those that `mask` keeps; all of them when it keeps fewer."""
    return largest(np.where(mask, scores, -np.inf), min(count, int(np.count_nonzero(mask))))
