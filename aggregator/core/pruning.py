"""How many weights each layer keeps at a given sparsity, and which: layer densities, exact counts, magnitude masks."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import UsageError
from device_runtime.wire.largest import Mask, largest, largest_kept
from device_runtime.wire.support import Params

LayerRule = Literal["erk", "er", "uniform", "erk_sparsity"]
Shapes = Mapping[str, tuple[int, ...]]


def layer_densities(shapes: Shapes, sparsity: float, rule: LayerRule = "erk") -> dict[str, float]:
    """The density d_l (share of weights kept) of every prunable layer at sparsity α.

    erk: d_l = min(1, ε q_l), q_l = Σ dims / Π dims of the weight tensor's own shape (so a grouped convolution needs
      no special case); ε is re-solved until Σ d_l s_l = (1-α) Σ s_l with the overfull layers dense
      (RigL: Evci et al., ICML 2020, section 3, "Sparsity Distribution").
    er: the same with the first two dims only (SET: Mocanu et al., Nature Communications 2018).
    uniform: d_l = 1-α.
    erk_sparsity: 1 - d_l = clip(α a_l Σs / Σ(a_l s_l), 0, 1), a_l = 1-q_l: FedDST's literal formula (Bibikar et al.,
      AAAI 2022, public code), almost uniform. Where it clips, Σ d_l s_l misses the budget; `keep_counts` mends that.

    shapes: weight shapes by name, prunable ones only. Raises UsageError when α is outside [0, 1), when there is no
    prunable weight, or for an unknown rule.
    """
    sizes = _sizes(shapes, sparsity)
    if rule not in get_args(LayerRule):
        raise UsageError(f"layer_rule is {rule!r}; use one of {', '.join(get_args(LayerRule))}")
    if sparsity == 0.0:
        return dict.fromkeys(shapes, 1.0)
    if rule == "uniform":
        return dict.fromkeys(shapes, 1.0 - sparsity)
    if rule == "erk_sparsity":
        return _proportional_sparsities(shapes, sizes, sparsity)
    factors = {name: _factor(shape if rule == "erk" else shape[:2]) for name, shape in shapes.items()}
    return _proportional_densities(factors, sizes, (1.0 - sparsity) * sum(sizes.values()))


def keep_counts(shapes: Shapes, sparsity: float, rule: LayerRule = "erk") -> dict[str, int]:
    """How many weights each layer keeps: `layer_densities` rounded by largest remainder.

    Σ keep_l is exactly max(round((1-α) Σ s_l), number of layers), and 1 <= keep_l <= s_l. Remainder ties go to the
    earlier name. Raises UsageError as `layer_densities`.
    """
    sizes = _sizes(shapes, sparsity)
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


def score_masks(scores: Mapping[str, NDArray[np.floating[Any]]], counts: Mapping[str, int]) -> dict[str, Mask]:
    """Per layer of `counts`, the mask of its count largest scores (higher = keep), whatever the scores mean."""
    return {name: largest(scores[name], count) for name, count in counts.items()}


def magnitude_masks(params: Params, counts: Mapping[str, int]) -> dict[str, Mask]:
    """Per layer of `counts`, the mask of its count largest |w| (True = kept), bool of the weight's shape.

    Ties by flat index. Raises UsageError for a NaN weight or an impossible count. |w| stays float32: taking it is
    exact, and only comparisons follow.
    """
    return score_masks({name: np.abs(params[name]) for name in counts}, counts)


def nested_masks(params: Params, masks: Mapping[str, Mask], sparsity: float, rule: LayerRule) -> dict[str, Mask]:
    """Masks inside `masks`, for a device that is pruned further: per layer the largest |w| among the kept.

    A layer keeps min(keep_counts(sparsity), what its mask keeps): a layer rule may give a small layer more at a higher
    sparsity by rounding, and the run's mask bounds every submodel. Ties by flat index. Errors as `magnitude_masks`.
    """
    counts = keep_counts({name: mask.shape for name, mask in masks.items()}, sparsity, rule)
    return {name: largest_kept(params[name], mask, counts[name]) for name, mask in masks.items()}


def _sizes(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Element counts by name, after checking what every public function requires."""
    if not 0.0 <= sparsity < 1.0:
        raise UsageError(f"sparsity is {sparsity}; give the share of weights to remove, at least 0 and below 1")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if not sizes or min(sizes.values()) < 1:
        raise UsageError("the model has no prunable weight; only weights of convolutions and linear layers are")
    return sizes


def _factor(dims: tuple[int, ...]) -> float:
    """The Erdős-Rényi factor q = Σ dims / Π dims."""
    return sum(dims) / math.prod(dims)


def _proportional_densities(factors: Mapping[str, float], sizes: Mapping[str, int], budget: float) -> dict[str, float]:
    """d_l = min(1, ε q_l) with Σ d_l s_l = budget: layers that would exceed 1 become dense and ε is solved again."""
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


def _proportional_sparsities(shapes: Shapes, sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """1 - d_l = clip(α a_l Σs / Σ(a_l s_l), 0, 1), a_l = 1 - q_l; uniform where the formula has no meaning."""
    slack = {name: 1.0 - _factor(shape) for name, shape in shapes.items()}
    weighted = sum(slack[n] * sizes[n] for n in sizes)
    if weighted <= 0.0:  # only vectors and single rows: q_l >= 1 everywhere
        return dict.fromkeys(shapes, 1.0 - sparsity)
    scale = sparsity * sum(sizes.values()) / weighted
    return {n: 1.0 - min(max(scale * slack[n], 0.0), 1.0) for n in sizes}


def _on_budget(ideal: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """`ideal` moved to sum to `total`, each within [0, s_l]: shrunk, or the free room filled, in proportion."""
    have = sum(ideal.values())
    if have >= total:
        return {n: v * (total / have) for n, v in ideal.items()}
    room = sum(sizes[n] - v for n, v in ideal.items())
    share = min((total - have) / room, 1.0) if room > 0.0 else 0.0
    return {n: v + (sizes[n] - v) * share for n, v in ideal.items()}
