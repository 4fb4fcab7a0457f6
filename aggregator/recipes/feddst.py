"""FedDST: sparse from the first round on; devices prune and regrow their own masks, the aggregator merges them.

Bibikar et al., "Federated Dynamic Sparse Training: Computing Less, Communicating Less, Yet Learning Better", AAAI 2022.
Layer sparsities by its public code's formula, which is almost uniform; grown weights begin at 0; each coordinate is the
mean over the devices that hold it; then every layer is pruned to its count again by magnitude. Where the paper and its
code differ: the share decays by a cosine, as the paper says (the code tests the decayed share and prunes by the other);
growth chooses among weights off the mask only (the code ranks all, so that a kept one may be reset). ΔR and the range
of α_r are the paper's; the epoch of the move, E_p, is not in it: 1.
"""

from aggregator.core.combining import Mean
from aggregator.core.residuals import Zero
from aggregator.core.topologies import ByDevices
from aggregator.core.weighting import Samples
from aggregator.recipes.interface import RECIPES, RecipeRule, Tables


@RECIPES.rule
class FedDst(RecipeRule, frozen=True, tag="feddst"):
    """Nothing stands off the mask: the dense and the sparse model are one."""

    def tables(self) -> Tables:
        """Sparse, moved by devices, by samples."""
        return {
            "pruning": {"sparsity": 0.8, "layers": {"kind": "erk_sparsity"}},
            "topology": ByDevices(prune_share=0.05, every_rounds=10),
            "residual": Zero(),
            "weighting": Samples(),
            "combining": Mean(),
        }
