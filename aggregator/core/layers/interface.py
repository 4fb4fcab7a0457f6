"""What a layer rule is: how dense each layer is, when the whole model has some sparsity."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from aggregator.core.registry import Registry
from device_runtime.wire.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]


@runtime_checkable
class LayerRule(Protocol):
    """How the kept weights are shared among the layers."""

    def densities(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """The density d_l in [0, 1] (share of weights kept) of every prunable layer at a sparsity α in (0, 1).

        shapes: weight shapes by name, prunable ones only. A rule may miss the budget Σ d_l s_l = (1-α) Σ s_l, s_l the
        size of a layer; `keep_counts` mends that.
        """


LAYER_RULES: Registry[LayerRule] = Registry("layers", LayerRule)


def sizes_of(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Element counts by name. Raises UsageError for α outside [0, 1) and where there is no prunable weight."""
    if not 0.0 <= sparsity < 1.0:
        raise UsageError(f"sparsity is {sparsity}; give the share of weights to remove, at least 0 and below 1")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if not sizes or min(sizes.values()) < 1:
        raise UsageError("the model has no prunable weight; only weights of convolutions and linear layers are")
    return sizes


def erdos_renyi_factor(dims: tuple[int, ...]) -> float:
    """q = Σ dims / Π dims."""
    return sum(dims) / math.prod(dims)
