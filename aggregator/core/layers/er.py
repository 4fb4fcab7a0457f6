"""Erdős-Rényi: as ERK, but of the first two dimensions only (SET: Mocanu et al., Nature Communications 2018)."""

from aggregator.core.layers.interface import LAYER_RULES, Shapes, erdos_renyi_factor, sizes_of
from aggregator.core.layers.proportional import proportional_densities
from aggregator.core.registry import Rule


@LAYER_RULES.rule
class Er(Rule, frozen=True, tag="er"):
    """q_l of inputs and outputs, whatever the kernel."""

    def densities(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """d_l = min(1, ε q_l), ε such that the whole model has the sparsity."""
        sizes = sizes_of(shapes, sparsity)
        factors = {name: erdos_renyi_factor(shape[:2]) for name, shape in shapes.items()}
        return proportional_densities(factors, sizes, (1.0 - sparsity) * sum(sizes.values()))
