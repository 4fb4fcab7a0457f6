"""Masks from scores, and the supports of a submodel on masks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.largest import Mask as Mask
from device_runtime.wire.largest import largest, largest_kept
from device_runtime.wire.support import Support

Masks = Mapping[str, Mask]
Scores = NDArray[np.floating[Any]]


def score_masks(scores: Mapping[str, Scores], counts: Mapping[str, int]) -> dict[str, Mask]:
    """Per layer of `counts`, the mask of its count largest scores (higher = keep), whatever the scores mean."""
    return {name: largest(scores[name], count) for name, count in counts.items()}


def nested_masks(scores: Mapping[str, Scores], masks: Masks, counts: Mapping[str, int]) -> dict[str, Mask]:
    """Masks inside `masks`: per layer the count largest scores among the kept.

    A layer keeps min(count, what its mask keeps): a layer rule may give a small layer more at a higher sparsity by
    rounding, and the run's mask bounds every submodel.
    """
    return {name: largest_kept(scores[name], mask, counts[name]) for name, mask in masks.items()}


def supports_of(shapes: Mapping[str, tuple[int, ...]], masks: Masks) -> dict[str, Support]:
    """Where a submodel on these masks sits, for every parameter of `shapes`: everything of a tensor without a mask."""
    return {
        name: Support.from_mask(masks[name]) if name in masks else Support.everything(shape)
        for name, shape in shapes.items()
    }
