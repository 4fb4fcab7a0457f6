"""Keep: the residual of the thesis (specification, section 5), untrained initial weights included."""

import numpy as np

from aggregator.core.masks import Mask
from aggregator.core.registry import Rule
from aggregator.core.residuals.interface import RESIDUALS


@RESIDUALS.rule
class Keep(Rule, frozen=True, tag="keep"):
    """Nothing is ever zeroed."""

    def kept(self, mask: Mask, trained: Mask) -> Mask:
        """Everywhere."""
        return np.ones_like(mask)
