"""Random growth: any weight off the mask, uniformly (SET: Mocanu et al., Nature Communications 2018)."""

import numpy as np
from numpy.typing import NDArray

from aggregator.core.growth.interface import GROWTHS
from aggregator.core.masks import Mask
from aggregator.core.registry import Rule
from device_runtime.wire.draws import Draws


@GROWTHS.rule
class RandomGrowth(Rule, frozen=True, tag="random"):
    """Uniform over all coordinates off the mask, those just pruned included."""

    def grow(self, mask: Mask, count: int, draws: Draws) -> NDArray[np.int64]:
        """The first `count` of a random order."""
        candidates = np.flatnonzero(~mask)
        return candidates[draws.permutation(candidates.size)[:count]]
