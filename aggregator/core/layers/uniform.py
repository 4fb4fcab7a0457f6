"""Uniform: every layer has the density of the whole."""

from aggregator.core.layers.interface import LAYER_RULES, Shapes
from aggregator.core.registry import Rule


@LAYER_RULES.rule
class UniformLayers(Rule, frozen=True, tag="uniform"):
    """d_l = 1-α."""

    def densities(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """The same density for all."""
        return dict.fromkeys(shapes, 1.0 - sparsity)
