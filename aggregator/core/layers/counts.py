"""How many weights each layer keeps: densities rounded so that the whole model keeps exactly its share."""

import math
from collections.abc import Mapping

from aggregator.core.layers.interface import LayerRule, Shapes, sizes_of


def layer_densities(shapes: Shapes, sparsity: float, rule: LayerRule) -> dict[str, float]:
    """The density of every layer; all are dense at sparsity 0. Raises UsageError as `sizes_of`."""
    sizes_of(shapes, sparsity)
    return dict.fromkeys(shapes, 1.0) if sparsity == 0.0 else rule.densities(shapes, sparsity)


def keep_counts(shapes: Shapes, sparsity: float, rule: LayerRule) -> dict[str, int]:
    """How many weights each layer keeps: `layer_densities` rounded by largest remainder.

    Σ keep_l is exactly max(round((1-α) Σ s_l), number of layers), and 1 <= keep_l <= s_l. Remainder ties go to the
    earlier name. Raises UsageError as `sizes_of`.
    """
    sizes = sizes_of(shapes, sparsity)
    densities = layer_densities(shapes, sparsity, rule)
    # One weight per layer comes before the budget: an empty layer would cut the network in two.
    total = max(round((1.0 - sparsity) * sum(sizes.values())), len(sizes))
    ideal = _on_budget({name: densities[name] * size for name, size in sizes.items()}, sizes, total)
    counts = {name: min(max(math.floor(ideal[name]), 1), size) for name, size in sizes.items()}
    while (missing := total - sum(counts.values())) != 0:
        sign = 1 if missing > 0 else -1
        free = [n for n, c in counts.items() if (c < sizes[n] if sign > 0 else c > 1)]
        free.sort(key=lambda n: sign * (counts[n] - ideal[n]))
        for name in free[: abs(missing)]:
            counts[name] += sign
    return counts


def _on_budget(ideal: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """`ideal` moved to sum to `total`, each within [0, s_l]: shrunk, or the free room filled, in proportion."""
    have = sum(ideal.values())
    if have >= total:
        return {n: v * (total / have) for n, v in ideal.items()}
    room = sum(sizes[n] - v for n, v in ideal.items())
    share = min((total - have) / room, 1.0) if room > 0.0 else 0.0
    return {n: v + (sizes[n] - v) * share for n, v in ideal.items()}
