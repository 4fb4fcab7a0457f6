"""FedAvg: the dense model, trained by all, averaged by samples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1,
with every member in every round (C = 1).
"""

from aggregator.core.combining import Mean
from aggregator.core.topologies import Static
from aggregator.core.weighting import Samples
from aggregator.recipes.interface import RECIPES, RecipeRule, Tables


@RECIPES.rule
class FedAvg(RecipeRule, frozen=True, tag="fedavg"):
    """Nothing is pruned, so that no mask moves and nothing is restored."""

    def tables(self) -> Tables:
        """Dense, by samples."""
        return {
            "pruning": {"sparsity": 0.0},
            "topology": Static(),
            "weighting": Samples(),
            "combining": Mean(),
        }
