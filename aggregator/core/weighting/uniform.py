"""Uniform: every device counts the same."""

from collections.abc import Mapping

from aggregator.core.weighting.interface import WEIGHTINGS
from aggregator.core.weighting.samples import Samples
from aggregator.core.weighting.shares import equal_share


@WEIGHTINGS.rule
class UniformWeights(Samples, frozen=True, tag="uniform"):
    """r_n = 1/N over all devices that ever took part."""

    def share(self, sample_counts: Mapping[str, int]) -> dict[str, float]:
        """Equal shares."""
        return equal_share(sample_counts)
