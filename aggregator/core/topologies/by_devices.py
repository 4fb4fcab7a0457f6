"""By devices: they move their own masks while they train, and the aggregator merges what came of it.

FedDST: Bibikar et al., "Federated Dynamic Sparse Training", AAAI 2022, algorithm 1.
"""

import math
from typing import ClassVar, Self

import msgspec

from aggregator.core.layers.counts import keep_counts
from aggregator.core.masks import Mask, Masks, nested_masks
from aggregator.core.pruning import Pruning, shapes_of
from aggregator.core.registry import Rule
from aggregator.core.topologies.interface import TOPOLOGIES, Turn
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import FloatArray


@TOPOLOGIES.rule
class ByDevices(Rule, frozen=True, tag="by_devices"):
    """In some rounds every device drops its smallest weights and grows those of the largest gradient instead.

    prune_share: α_r, share of a layer's kept weights exchanged at most; it falls to 0 by a cosine. every_rounds: ΔR.
    end_round: from which on no mask moves; 0 means three quarters of the rounds. after_epochs: E_p, local epochs before
    a device moves its masks; what it grew is trained in the epochs that are left.
    """

    needs_scores: ClassVar[bool] = True

    prune_share: float = 0.05
    every_rounds: int = 10
    end_round: int = 0
    after_epochs: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.prune_share < 1.0:
            raise UsageError(f"prune_share is {self.prune_share}; give a share above 0 and below 1")
        if self.every_rounds < 1 or self.end_round < 0 or self.after_epochs < 0:
            raise UsageError(
                f"every_rounds is {self.every_rounds}, end_round {self.end_round}, after_epochs {self.after_epochs}; "
                "give at least 1, 0 and 0"
            )

    def for_rounds(self, round_count: int) -> Self:
        """Three quarters of the rounds, unless it is given."""
        return msgspec.structs.replace(self, end_round=self.end_round or 3 * round_count // 4)

    def adjustment(self, round_index: int, pruning: Pruning) -> MaskAdjustment | None:
        """α_r (1 + cos(π t / T_end)) / 2 of the kept weights, in every ΔR-th round before T_end."""
        if not pruning.dense_rounds < round_index < self.end_round or round_index % self.every_rounds:
            return None
        share = self.prune_share / 2.0 * (1.0 + math.cos(math.pi * round_index / self.end_round))
        return MaskAdjustment(after_epochs=self.after_epochs, share=share)

    def next_masks(self, turn: Turn) -> dict[str, Mask]:
        """After a round in which devices moved their masks: the best of what any of them holds, to the layer's count.

        A coordinate that all of them dropped has no holder and is no candidate.
        """
        if self.adjustment(turn.round_index, turn.pruning) is None:
            return dict(turn.masks)
        pruning, masks = turn.pruning, turn.masks
        held = {name: turn.covered[name] for name in masks}
        scores = pruning.criterion.scores(turn.theta, masks)
        return nested_masks(scores, held, keep_counts(shapes_of(masks), pruning.sparsity, pruning.layers))

    def grown_values(self, turn: Turn, masks: Masks) -> dict[str, FloatArray]:
        """θ has what the devices trained."""
        return {}
