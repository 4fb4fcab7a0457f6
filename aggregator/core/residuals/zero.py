"""Zero: what is pruned is forgotten, so that the dense and the sparse model are one."""

from aggregator.core.masks import Mask
from aggregator.core.registry import Rule
from aggregator.core.residuals.interface import RESIDUALS


@RESIDUALS.rule
class Zero(Rule, frozen=True, tag="zero"):
    """As in FedDST and RigL."""

    def kept(self, mask: Mask, trained: Mask) -> Mask:
        """On the mask only."""
        return mask
