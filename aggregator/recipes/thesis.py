"""The thesis: dynamic pruning, weights by contribution, the dense model restored from the residual.

The seed's thesis of 2023 as the specification resolves it (sections 1 to 5): ERK densities, masks that prune further
and regrow at random now and then, masked averaging, CGSV weights with a per-device decaying trade-off. Where its drafts
disagree: the raw step instead of the unit one, since that never anneals; off the mask the values that training gave
instead of initial weights, which cost accuracy (benchmarks/README.md). [residual] kind = "keep" and [combining]
kind = "unit" are its literal form.
"""

from aggregator.core.combining import Mean
from aggregator.core.rating import Fixed
from aggregator.core.residuals import Trained
from aggregator.core.scoring import Cosine
from aggregator.core.topologies import Dynamic
from aggregator.core.weighting import Cgsv
from aggregator.recipes.interface import RECIPES, RecipeRule, Tables


@RECIPES.rule
class Thesis(RecipeRule, frozen=True, tag="thesis"):
    """Today's default."""

    def tables(self) -> Tables:
        """The rules, each with its own defaults."""
        return {
            "pruning": {"sparsity": 0.8, "layers": {"kind": "erk"}},
            "topology": Dynamic(prune_share=0.1, every_rounds=3),
            "residual": Trained(),
            "scoring": Cosine(),
            "weighting": Cgsv(gamma0=0.7),
            "combining": Mean(),
            "rates": Fixed(),
        }
