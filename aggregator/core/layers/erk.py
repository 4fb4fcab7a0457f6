"""Erdős-Rényi-Kernel: the density of a layer follows the sum of its dimensions over their product (RigL)."""

from aggregator.core.layers.interface import LAYER_RULES, Shapes, erdos_renyi_factor, sizes_of
from aggregator.core.layers.proportional import proportional_densities
from aggregator.core.registry import Rule


@LAYER_RULES.rule
class Erk(Rule, frozen=True, tag="erk"):
    """q_l = Σ dims / Π dims over the whole weight shape, so a grouped convolution needs no special case."""

    def densities(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """d_l = min(1, ε q_l), ε such that the whole model has the sparsity."""
        sizes = sizes_of(shapes, sparsity)
        factors = {name: erdos_renyi_factor(shape) for name, shape in shapes.items()}
        return proportional_densities(factors, sizes, (1.0 - sparsity) * sum(sizes.values()))
