"""How much each device's update counts: scores ψ by cosine with the weighted direction, and the weights r they move.

CGSV: Xu et al., "Gradient-Driven Rewards to Guarantee Fairness in Collaborative Machine Learning", NeurIPS 2021, with
the per-device decaying trade-off of the specification, section 4. Known limit: ψ measures agreement with the
weighted majority; where most of the weight is noisy, it rewards noise.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import UsageError

NORM_MIN: Final = 1e-12
"""Below this length an update or a direction is no direction: its score is 0."""

Weighting = Literal["cgsv", "samples", "uniform"]
ScoreScale = Literal["literal", "share"]


@dataclass(frozen=True, slots=True)
class ContributionRule:
    """How weights follow from scores.

    weighting: "cgsv" mixes ψ into r; "samples" keeps the data share; "uniform" keeps 1/N.
    gamma0: trade-off γ of a device's first round; 1 keeps r for ever, 0 replaces it by ψ at once.
    weight_min: floor of r before normalisation; 0 allows hard exclusion. It is capped at a tenth of an equal share, so
      that a fleet of more than 100 devices is not all floor.
    score_scale: "literal" mixes ψ as it is (it outweighs r, which sums to 1, sooner than γ suggests); "share" first
      scales ψ+ to the weight its participants hold, so that γ means what it says.
    exclude_self: ψ against the direction of the others only; passed on to `averaging.aggregate`.
    """

    weighting: Weighting = "cgsv"
    gamma0: float = 0.7
    weight_min: float = 1e-3
    score_scale: ScoreScale = "literal"
    exclude_self: bool = False

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise UsageError(f"weighting is {self.weighting!r}; use one of {', '.join(get_args(Weighting))}")
        if self.score_scale not in get_args(ScoreScale):
            raise UsageError(f"score_scale is {self.score_scale!r}; use one of {', '.join(get_args(ScoreScale))}")
        if not 0.0 <= self.gamma0 <= 1.0:
            raise UsageError(f"gamma0 is {self.gamma0}; give a number from 0 to 1")
        if not 0.0 <= self.weight_min < 1.0:
            raise UsageError(f"weight_min is {self.weight_min}; give a number of at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class ContributionState:
    """What is known of every enrolled device, by name in ascending order.

    weights: r, sum 1 (or empty). participations: rounds the device took part in. sample_counts: its local samples.
    """

    weights: dict[str, float] = field(default_factory=dict)
    participations: dict[str, int] = field(default_factory=dict)
    sample_counts: dict[str, int] = field(default_factory=dict)


def initial_weights(sample_counts: Mapping[str, int], weighting: Weighting = "cgsv") -> ContributionState:
    """The state before round 1: r_n = |D_n| / Σ|D| (or 1/N for "uniform"), nobody has taken part.

    Raises UsageError for a negative sample count. Devices without any samples share equally.
    """
    for device, count in sample_counts.items():
        if count < 0:
            raise UsageError(f"device {device!r} reports {count} samples; a sample count is at least 0")
    counts = dict(sorted(sample_counts.items()))
    return ContributionState(_prior_share(counts, weighting), dict.fromkeys(counts, 0), counts)


def join(rule: ContributionRule, state: ContributionState, device: str, sample_count: int) -> ContributionState:
    """The state with a device more: r = median of the others, no participation yet, all renormalised.

    A device that is already known keeps its r and participations and only updates its sample count.
    """
    counts = dict(sorted({**state.sample_counts, device: sample_count}.items()))
    fresh = initial_weights(counts, rule.weighting)
    participations = {d: state.participations.get(d, 0) for d in counts}
    if rule.weighting != "cgsv" or not state.weights:
        return ContributionState(fresh.weights, participations, counts)
    middle = float(np.median(list(state.weights.values())))
    weights = {d: state.weights.get(d, middle) for d in counts}
    if device in state.weights:
        return ContributionState(weights, participations, counts)
    return ContributionState(_normalised(weights, counts), participations, counts)


def leave(rule: ContributionRule, state: ContributionState, device: str) -> ContributionState:
    """The state without a device, the others renormalised; empty when it was the last one.

    Raises UsageError when the device is not known.
    """
    _check_known(state, device)
    counts = {d: c for d, c in state.sample_counts.items() if d != device}
    participations = {d: k for d, k in state.participations.items() if d != device}
    if rule.weighting != "cgsv":
        return ContributionState(_prior_share(counts, rule.weighting), participations, counts)
    weights = {d: r for d, r in state.weights.items() if d != device}
    return ContributionState(_normalised(weights, counts), participations, counts)


def trade_off(rule: ContributionRule, participation: int) -> float:
    """γ_n = 1 - (1-γ0)/k_n of a device's k-th round, k from 1.

    A counter per device, not the global round: with the latter a late joiner could hardly move. Under full
    participation both agree.
    """
    return 1.0 - (1.0 - rule.gamma0) / participation


def scores(rule: ContributionRule, state: ContributionState, psi: Mapping[str, float]) -> dict[str, float]:
    """The scores as they are mixed into r: ψ itself, or ("share") ψ+ / Σψ+ times the participants' summed weight.

    Raises UsageError for an unknown device or a ψ that is not a number in [-1, 1].
    """
    for device, value in psi.items():
        _check_known(state, device)
        if not -1.0 <= value <= 1.0:
            raise UsageError(f"the contribution of {device!r} is {value}; a cosine lies in [-1, 1]")
    if rule.score_scale == "literal":
        return dict(psi)
    positive = {d: max(value, 0.0) for d, value in psi.items()}
    total = math.fsum(positive.values())
    mass = math.fsum(state.weights[d] for d in psi)
    return {d: mass * value / total if total > 0.0 else 0.0 for d, value in positive.items()}


def next_weights(rule: ContributionRule, state: ContributionState, psi: Mapping[str, float]) -> ContributionState:
    """The weights after a round in which the devices of `psi` took part.

    r_n <- γ_n r_n + (1-γ_n) ψ_n for participants only; r_n <- max(r_n, floor); then Σ r = 1 over all known devices
    (specification section 4; floor as in CGSV's public code). A negative ψ pulls r down to the floor. When every
    device sits at the floor nothing distinguishes them, and the data share is used. γ0 = 1 returns the weights bit
    for bit (FedAvg). Raises UsageError as `scores`.
    """
    mixed = scores(rule, state, psi)
    participations = {d: k + (d in psi) for d, k in state.participations.items()}
    if rule.weighting != "cgsv" or rule.gamma0 == 1.0:
        return ContributionState(state.weights, participations, state.sample_counts)
    weights = dict(state.weights)
    for device, score in mixed.items():
        gamma = trade_off(rule, participations[device])
        weights[device] = gamma * weights[device] + (1.0 - gamma) * score
    floor = min(rule.weight_min, 0.1 / max(len(weights), 1))
    if all(r <= floor for r in weights.values()):
        return ContributionState(_prior_share(state.sample_counts, "samples"), participations, state.sample_counts)
    floored = {d: max(r, floor) for d, r in weights.items()}
    return ContributionState(_normalised(floored, state.sample_counts), participations, state.sample_counts)


def dot(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Σ a_i b_i in float64, of two arrays of one shape.

    Not np.dot: BLAS splits long sums by its thread count, and the bits would depend on the machine.
    """
    return float(np.sum(a.astype(np.float64, copy=False) * b.astype(np.float64, copy=False)))


def norm(parts: Iterable[NDArray[np.floating[Any]]]) -> float:
    """The Euclidean length of a vector given in parts."""
    return math.sqrt(sum(dot(part, part) for part in parts))


def cosine(pairs: Iterable[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]) -> float:
    """cos(a, b) of two vectors given in matching parts, in [-1, 1]; 0 when either is shorter than NORM_MIN.

    Given an update's kept values and the direction gathered on the same support, this is the masked cosine
    <u_n, m_n U> / (‖u_n‖ ‖m_n U‖): a device is not marked down for the coordinates it does not hold.
    """
    products = squares_a = squares_b = 0.0
    for a, b in pairs:
        products += dot(a, b)
        squares_a += dot(a, a)
        squares_b += dot(b, b)
    if min(squares_a, squares_b) < NORM_MIN**2:
        return 0.0
    return min(max(products / (math.sqrt(squares_a) * math.sqrt(squares_b)), -1.0), 1.0)


def _prior_share(sample_counts: Mapping[str, int], weighting: Weighting) -> dict[str, float]:
    """Data shares, or equal shares for "uniform" and for devices without any samples."""
    total = sum(sample_counts.values())
    if weighting == "uniform" or total == 0:
        return {device: 1.0 / len(sample_counts) for device in sample_counts}
    return {device: count / total for device, count in sample_counts.items()}


def _normalised(weights: Mapping[str, float], sample_counts: Mapping[str, int]) -> dict[str, float]:
    """`weights` scaled to sum 1; the data share when they are all 0. fsum: the order of devices does not matter."""
    total = math.fsum(weights.values())
    if total <= 0.0:
        return _prior_share(sample_counts, "samples")
    return {device: r / total for device, r in weights.items()}


def _check_known(state: ContributionState, device: str) -> None:
    if device not in state.weights:
        raise UsageError(f"device {device!r} is not enrolled in this run; join it first")
