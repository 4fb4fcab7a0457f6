"""Dynamic: now and then prune further and regrow to the same counts."""

import math
from typing import ClassVar, Literal, Self

import msgspec

from aggregator.core.growth import Growth, RandomGrowth
from aggregator.core.layers.counts import keep_counts
from aggregator.core.masks import Mask, Masks, Scores
from aggregator.core.pruning import Pruning, shapes_of
from aggregator.core.registry import Rule
from aggregator.core.topologies.interface import TOPOLOGIES, Turn
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.largest import largest_kept
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import FloatArray

GrowValue = Literal["residual", "zero", "init"]
Between = Literal["keep", "reprune"]


@TOPOLOGIES.rule
class Dynamic(Rule, frozen=True, tag="dynamic"):
    """When and how the mask moves (schedule: RigL, Evci et al., ICML 2020; growth by its own rule).

    prune_share: p0, share of the remaining weights exchanged at most. every_rounds: ΔT. end_round: T_end, from which
    on the mask is no longer adjusted; 0 means three quarters of the rounds. growth: which coordinates come back.
    grow_value: what a grown coordinate starts from: the value theta kept for it, 0, or its initial value.
    between: at a round without adjustment "keep" the mask, or "reprune" over all coordinates, where a large residual
    value comes back.
    """

    needs_scores: ClassVar[bool] = False

    prune_share: float = 0.1
    every_rounds: int = 3
    end_round: int = 0
    growth: Growth = RandomGrowth()
    grow_value: GrowValue = "residual"
    between: Between = "keep"

    def __post_init__(self) -> None:
        if not 0.0 <= self.prune_share < 1.0:
            raise UsageError(f"prune_share is {self.prune_share}; give a share of at least 0 and below 1")
        if self.every_rounds < 1 or self.end_round < 0:
            raise UsageError(f"every_rounds is {self.every_rounds}, end_round {self.end_round}; give at least 1 and 0")

    def for_rounds(self, round_count: int) -> Self:
        """T_end = floor(3T/4) unless it is given, the specification's choice for a run of T rounds."""
        return msgspec.structs.replace(self, end_round=self.end_round or 3 * round_count // 4)

    def prune_share_at(self, round_index: int) -> float:
        """p^t = (p0/2)(1 + cos(π t / T_end)) for t < T_end, else 0. Rounds count from 1."""
        if round_index >= self.end_round:
            return 0.0
        return self.prune_share / 2.0 * (1.0 + math.cos(math.pi * round_index / self.end_round))

    def adjusts(self, round_index: int) -> bool:
        """Whether the mask is pruned and regrown after this round: p^t > 0, t < T_end and t mod ΔT = 0."""
        return self.prune_share_at(round_index) > 0.0 and round_index % self.every_rounds == 0

    def adjustment(self, round_index: int, pruning: Pruning) -> MaskAdjustment | None:
        """Devices leave their masks alone."""
        return None

    def next_masks(self, turn: Turn) -> dict[str, Mask]:
        """The masks after a round.

        Adjusting round: per layer, the low_l best among the active weights stay, low = keep_counts(α + (1-α) p^t);
        then keep_l - low_l of all others (the just-pruned included) are grown. Every layer ends with exactly
        keep_l = keep_counts(α), also when it did not start there. Other rounds: as `between` says.

        Raises UsageError for a weight that is not a number.
        """
        pruning, masks = turn.pruning, turn.masks
        shapes = shapes_of(masks)
        if not self.adjusts(turn.round_index):
            return dict(masks) if self.between == "keep" else pruning.masks(turn.theta, shapes, pruning.sparsity)
        keep = keep_counts(shapes, pruning.sparsity, pruning.layers)
        enlarged = pruning.sparsity + (1.0 - pruning.sparsity) * self.prune_share_at(turn.round_index)
        # Rounding may give one layer a weight more at the higher sparsity: then it is not pruned.
        low = {n: min(c, keep[n]) for n, c in keep_counts(shapes, enlarged, pruning.layers).items()}
        scores = pruning.criterion.scores(turn.theta, masks)
        return {
            n: self._prune_and_regrow(scores[n], mask, low[n], keep[n], turn.draws_for(n)) for n, mask in masks.items()
        }

    def _prune_and_regrow(self, scores: Scores, mask: Mask, low: int, keep: int, draws: Draws) -> Mask:
        """The `low` best active weights and `keep` - low others; all active ones when fewer are active."""
        after = largest_kept(scores, mask, low)
        grown = self.growth.grow(after, keep - int(after.sum()), draws)
        flat = after.ravel()
        flat[grown] = True
        return flat.reshape(mask.shape)

    def grown_values(self, turn: Turn, masks: Masks) -> dict[str, FloatArray]:
        """What every newly kept coordinate starts from, by `grow_value`; fresh arrays, elsewhere θ's values.

        A coordinate that `between = "reprune"` brings back was chosen for its residual value and keeps it.
        """
        if self.grow_value == "residual" or not self.adjusts(turn.round_index):
            return {}
        values: dict[str, FloatArray] = {}
        for name, mask in masks.items():
            values[name] = turn.theta[name].copy()
            grown = mask & ~turn.masks[name]
            values[name][grown] = turn.initial[name][grown] if self.grow_value == "init" else 0.0
        return values
