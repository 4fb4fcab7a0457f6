"""The [pruning] table as a value: how sparse the run is, since when, and which weights stay."""

from collections.abc import Mapping

import msgspec

from aggregator.core.criteria import Criterion, Magnitude
from aggregator.core.layers import Erk, LayerRule
from aggregator.core.layers.counts import keep_counts
from aggregator.core.layers.interface import Shapes
from aggregator.core.masks import Mask, Masks, nested_masks, score_masks
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Params


class Pruning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is pruned, and where.

    sparsity: α, the share of the prunable weights removed. layers: how the kept ones are shared among the layers.
    criterion: which of a layer's weights stay. dense_rounds: rounds in which nothing is pruned; after the last of them
    the mask is chosen by what training made of the weights (Han et al., NeurIPS 2015). 0: the mask of the initial
    weights, from round 1 on.
    """

    sparsity: float = 0.8
    layers: LayerRule = Erk()
    criterion: Criterion = Magnitude()
    dense_rounds: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise UsageError(
                f"sparsity is {self.sparsity}; give the share of weights to remove, at least 0 and below 1"
            )
        if self.dense_rounds < 0:
            raise UsageError(f"dense_rounds is {self.dense_rounds}; give at least 0")

    def sparsity_at(self, round_index: int) -> float:
        """The sparsity α of the run's mask in a round: 0 in the dense rounds. Rounds count from 1."""
        return 0.0 if round_index <= self.dense_rounds else self.sparsity

    def masks(self, theta: Params, shapes: Shapes, sparsity: float) -> dict[str, Mask]:
        """Per prunable layer of `shapes`, the mask of the weights that stay at `sparsity`, by their scores in θ."""
        return score_masks(self.criterion.scores(theta, shapes), keep_counts(shapes, sparsity, self.layers))

    def nested(self, theta: Params, masks: Masks, sparsity: float) -> dict[str, Mask]:
        """Masks inside `masks`, for a device that is pruned further than the run."""
        counts = keep_counts(shapes_of(masks), sparsity, self.layers)
        return nested_masks(self.criterion.scores(theta, masks), masks, counts)


def shapes_of(masks: Mapping[str, Mask]) -> dict[str, tuple[int, ...]]:
    """The shapes of the prunable weights, from masks of them."""
    return {name: mask.shape for name, mask in masks.items()}
