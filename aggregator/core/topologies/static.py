"""Static: the mask never changes."""

from typing import ClassVar, Self

from aggregator.core.masks import Mask, Masks
from aggregator.core.pruning import Pruning
from aggregator.core.registry import Rule
from aggregator.core.topologies.interface import TOPOLOGIES, Turn
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import FloatArray


@TOPOLOGIES.rule
class Static(Rule, frozen=True, tag="static"):
    """What was pruned stays pruned."""

    needs_scores: ClassVar[bool] = False

    def for_rounds(self, round_count: int) -> Self:
        """Nothing depends on the number of rounds."""
        return self

    def adjustment(self, round_index: int, pruning: Pruning) -> MaskAdjustment | None:
        """Devices leave their masks alone."""
        return None

    def next_masks(self, turn: Turn) -> dict[str, Mask]:
        """The same masks."""
        return dict(turn.masks)

    def grown_values(self, turn: Turn, masks: Masks) -> dict[str, FloatArray]:
        """Nothing grows."""
        return {}
