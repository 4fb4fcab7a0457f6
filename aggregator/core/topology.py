"""How the mask moves between rounds: everything at first if asked, then prune further and regrow to the same counts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from aggregator.core.pruning import LayerRule, keep_counts, magnitude_masks
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.largest import Mask, largest_kept
from device_runtime.wire.support import FloatArray, Params

Kind = Literal["dynamic", "static"]
GrowValue = Literal["residual", "zero", "init"]
Between = Literal["keep", "reprune"]


@dataclass(frozen=True, slots=True)
class TopologyRule:
    """When and how the mask moves.

    end_round: T_end, from which on the mask is no longer adjusted (`end_round_of`). kind: "static" never changes the
    mask. prune_share: p0, share of the remaining weights exchanged at most. every_rounds: ΔT. grow_value: what a grown
    coordinate starts from: the value theta kept for it, 0, or its initial value. layer_rule: as in `pruning`.
    dense_rounds: rounds in which nothing is pruned; after the last of them the mask is chosen, whatever the kind is, by
    the magnitude that training gave (Han et al., NeurIPS 2015). 0: the mask of the initial weights, from round 1 on.
    between: at a round without adjustment "keep" the mask, or "reprune" by magnitude over all coordinates, where a
    large residual value comes back.
    """

    end_round: int
    kind: Kind = "dynamic"
    prune_share: float = 0.1
    every_rounds: int = 10
    grow_value: GrowValue = "residual"
    layer_rule: LayerRule = "erk"
    between: Between = "keep"
    dense_rounds: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("kind", Kind), ("grow_value", GrowValue), ("layer_rule", LayerRule), ("between", Between)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(kind))}")
        if not 0.0 <= self.prune_share < 1.0:
            raise UsageError(f"prune_share is {self.prune_share}; give a share of at least 0 and below 1")
        if self.every_rounds < 1 or self.end_round < 0:
            raise UsageError(f"every_rounds is {self.every_rounds}, end_round {self.end_round}; give at least 1 and 0")
        if self.dense_rounds < 0:
            raise UsageError(f"dense_rounds is {self.dense_rounds}; give at least 0")


def end_round_of(round_count: int) -> int:
    """T_end = floor(3T/4), the specification's choice for a run of T rounds."""
    return 3 * round_count // 4


def sparsity_at(rule: TopologyRule, sparsity: float, round_index: int) -> float:
    """The sparsity α of the run's mask in a round: 0 in the dense rounds, `sparsity` after. Rounds count from 1."""
    return 0.0 if round_index <= rule.dense_rounds else sparsity


def prune_share_at(rule: TopologyRule, round_index: int) -> float:
    """p^t = (p0/2)(1 + cos(π t / T_end)) for t < T_end, else 0 (RigL: Evci et al., ICML 2020, section 3, "Update
    Schedule"), and 0 up to the round that ends the dense ones. Rounds count from 1."""
    if rule.kind == "static" or not rule.dense_rounds < round_index < rule.end_round:
        return 0.0
    return rule.prune_share / 2.0 * (1.0 + math.cos(math.pi * round_index / rule.end_round))


def adjusts(rule: TopologyRule, round_index: int) -> bool:
    """Whether the mask is pruned and regrown after this round: p^t > 0, t < T_end and t mod ΔT = 0."""
    return prune_share_at(rule, round_index) > 0.0 and round_index % rule.every_rounds == 0


def next_masks(
    rule: TopologyRule,
    theta: Params,
    masks: Mapping[str, Mask],
    sparsity: float,
    round_index: int,
    draws_for: Callable[[str], Draws],
) -> dict[str, Mask]:
    """The masks after a round.

    Adjusting round: per layer, the low_l largest |θ| among the active weights stay, low = keep_counts(α + (1-α) p^t);
    then keep_l - low_l coordinates, drawn uniformly from all others (the just-pruned included), are grown (SET: Mocanu
    et al., Nature Communications 2018; sparsity distribution and schedule: RigL). Every layer ends with exactly
    keep_l = keep_counts(α), also when it did not start there. The last dense round: the keep_counts(α) largest |θ|.
    Other rounds: as `rule.between` says.

    theta: dense float32 with at least the names of masks. masks: bool, same shapes. draws_for: the stream of a layer.
    Raises UsageError as `keep_counts`, and for a weight that is not a number.
    """
    if round_index == rule.dense_rounds:
        return magnitude_masks(theta, keep_counts({n: m.shape for n, m in masks.items()}, sparsity, rule.layer_rule))
    if rule.kind == "static" or round_index < rule.dense_rounds:
        return dict(masks)
    adjusting = adjusts(rule, round_index)
    if not adjusting and rule.between == "keep":
        return dict(masks)
    shapes = {name: mask.shape for name, mask in masks.items()}
    keep = keep_counts(shapes, sparsity, rule.layer_rule)
    if not adjusting:
        return magnitude_masks(theta, keep)
    enlarged = sparsity + (1.0 - sparsity) * prune_share_at(rule, round_index)
    # Rounding may give one layer a weight more at the higher sparsity: then it is not pruned.
    low = {n: min(c, keep[n]) for n, c in keep_counts(shapes, enlarged, rule.layer_rule).items()}
    return {n: _prune_and_regrow(theta[n], mask, low[n], keep[n], draws_for(n)) for n, mask in masks.items()}


def grown_values(
    rule: TopologyRule,
    round_index: int,
    theta: Params,
    old: Mapping[str, Mask],
    new: Mapping[str, Mask],
    initial: Params,
) -> dict[str, FloatArray]:
    """The dense values of the masked tensors with every newly kept coordinate (new, not old) set by `grow_value`.

    A coordinate that `between = "reprune"` brings back was chosen for its residual value and keeps it. Old
    coordinates and those off both masks are theta's. float32, fresh arrays; `initial` is read for "init" only.
    """
    values: dict[str, FloatArray] = {}
    for name, mask in new.items():
        values[name] = theta[name].copy()
        if rule.grow_value == "residual" or not adjusts(rule, round_index):
            continue
        grown = mask & ~old[name]
        values[name][grown] = initial[name][grown] if rule.grow_value == "init" else 0.0
    return values


def _prune_and_regrow(weight: FloatArray, mask: Mask, low: int, keep: int, draws: Draws) -> Mask:
    """The `low` largest active weights and `keep` - low others at random; all active ones when fewer are active."""
    after = largest_kept(weight, mask, low)
    candidates = np.flatnonzero(~after)
    order = draws.permutation(candidates.size)
    flat = after.ravel()
    flat[candidates[order[: keep - int(np.count_nonzero(after))]]] = True
    regrown: Mask = flat.reshape(mask.shape)
    return regrown
