"""FedProx: FedAvg whose devices are held near the model that they were sent.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020: the local loss is F_n(w) + μ/2 ‖w - w^t‖².
The paper tunes μ in {0.001, 0.01, 0.1, 1}; 0.01 is where it begins here. Its second idea, partial work of slow devices,
needs nothing: a round's deadline drops whoever is late.
"""

from aggregator.core.combining import Mean
from aggregator.core.topologies import Static
from aggregator.core.weighting import Samples
from aggregator.recipes.interface import RECIPES, RecipeRule, Tables


@RECIPES.rule
class FedProx(RecipeRule, frozen=True, tag="fedprox"):
    """[training] proximal_mu is μ; its gradient is part of the train step that engine `portable` runs."""

    def tables(self) -> Tables:
        """Dense, by samples, with the proximal term."""
        return {
            "pruning": {"sparsity": 0.0},
            "topology": Static(),
            "weighting": Samples(),
            "combining": Mean(),
            "training": {"proximal_mu": 0.01},
        }
