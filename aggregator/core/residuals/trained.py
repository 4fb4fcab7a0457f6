"""Trained: off the mask stands what training gave, and 0 where nothing was ever trained."""

from aggregator.core.masks import Mask
from aggregator.core.registry import Rule
from aggregator.core.residuals.interface import RESIDUALS


@RESIDUALS.rule
class Trained(Rule, frozen=True, tag="trained"):
    """The dense model holds no untrained initial weights, which only disturb it."""

    def kept(self, mask: Mask, trained: Mask) -> Mask:
        """On the mask, and where some device has trained."""
        return mask | trained
