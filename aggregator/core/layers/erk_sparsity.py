"""FedDST's literal formula: sparsities, not densities, in proportion to a factor (Bibikar et al., AAAI 2022, code)."""

from aggregator.core.layers.interface import LAYER_RULES, Shapes, erdos_renyi_factor, sizes_of
from aggregator.core.registry import Rule


@LAYER_RULES.rule
class ErkSparsity(Rule, frozen=True, tag="erk_sparsity"):
    """1 - d_l = clip(α a_l Σs / Σ(a_l s_l), 0, 1), a_l = 1-q_l; every a_l is near 1, so it is almost uniform.

    Where it clips, Σ d_l s_l misses the budget.
    """

    def densities(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """The formula; uniform where it has no meaning."""
        sizes = sizes_of(shapes, sparsity)
        slack = {name: 1.0 - erdos_renyi_factor(shape) for name, shape in shapes.items()}
        weighted = sum(slack[n] * sizes[n] for n in sizes)
        if weighted <= 0.0:  # only vectors and single rows: q_l >= 1 everywhere
            return dict.fromkeys(shapes, 1.0 - sparsity)
        scale = sparsity * sum(sizes.values()) / weighted
        return {n: 1.0 - min(max(scale * slack[n], 0.0), 1.0) for n in sizes}
