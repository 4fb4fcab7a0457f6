"""Fixed: every device has the run's sparsity."""

from collections.abc import Mapping
from typing import ClassVar

from aggregator.core.rating.interface import RATINGS
from aggregator.core.rating.round_cost import Known
from aggregator.core.registry import Rule


@RATINGS.rule
class Fixed(Rule, frozen=True, tag="fixed"):
    """Nobody is pruned further."""

    needs_times: ClassVar[bool] = False

    def sparsities(self, sparsity: float, known: Mapping[str, Known], weights: Mapping[str, float]) -> dict[str, float]:
        """The same for all."""
        return dict.fromkeys(known, sparsity)
