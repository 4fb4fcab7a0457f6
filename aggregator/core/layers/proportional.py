"""Densities in proportion to a factor per layer, on budget, no layer more than dense."""

from collections.abc import Mapping


def proportional_densities(factors: Mapping[str, float], sizes: Mapping[str, int], budget: float) -> dict[str, float]:
    """d_l = min(1, ε q_l) with Σ d_l s_l = budget: layers that would exceed 1 become dense and ε is solved again.

    RigL: Evci et al., ICML 2020, section 3, "Sparsity Distribution".
    """
    dense: set[str] = set()
    while True:
        rest = [name for name in sizes if name not in dense]
        if not rest:
            return dict.fromkeys(sizes, 1.0)
        scale = (budget - sum(sizes[n] for n in dense)) / sum(factors[n] * sizes[n] for n in rest)
        over = {n for n in rest if scale * factors[n] > 1.0}
        if not over:
            return {n: 1.0 if n in dense else scale * factors[n] for n in sizes}
        dense |= over
