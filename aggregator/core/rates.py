"""Sparsity per device: what a round costs a device at some sparsity, and who is pruned further to keep step.

T_n(α) = b_n + s_n (1 - α), fitted to what is known of device n. τ is a quantile over the members of T_n(ᾱ), ᾱ the
run's sparsity; a device slower than τ gets the α at which it would take τ (capability rates, specification section 7).
By contribution, a device gets the more sparsity the lower its weight r_n lies under the mean. Devices are only ever
pruned further than the run, so that their masks lie inside the run's mask.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from device_runtime.wire.errors import UsageError

RatePolicy = Literal["fixed", "capability", "contribution"]

SAVING_SHARE_MIN = 0.05
"""A slope counts when pruning as far as allowed saves at least this share of the round: repeats of one measurement lie
as far apart (the profile's verdict calls them noisy beyond it)."""
GRID = 100
"""Sparsities are chosen in steps of 1/GRID: times are no better known, and equal ones share their blobs."""


SPREAD_MIN = 1e-6
"""Densities closer together than this, as a sum of squares, are one: rounding of counts moves them a little."""
EQUAL_WEIGHTS = 1e-9
"""Weights that differ by no more than this share of their mean are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class RatesRule:
    """policy: "fixed" gives every device the run's sparsity, "capability" prunes slow ones further, "contribution"
    those of low weight; to `sparsity_max` at most. quantile: which of the members' times is the target τ, 0 the
    fastest, 1 the slowest. kappa: κ, what contribution adds to the sparsity of the lowest weight at most."""

    policy: RatePolicy = "fixed"
    sparsity_max: float = 0.95
    quantile: float = 0.5
    kappa: float = 0.2

    def __post_init__(self) -> None:
        if self.policy not in get_args(RatePolicy):
            raise UsageError(f"rates policy is {self.policy!r}; use one of {', '.join(get_args(RatePolicy))}")
        if not 0.0 <= self.sparsity_max < 1.0:
            raise UsageError(f"sparsity_max is {self.sparsity_max}; give a number of at least 0 and below 1")
        if not 0.0 <= self.quantile <= 1.0:
            raise UsageError(f"quantile is {self.quantile}; give a number from 0 to 1")
        if not 0.0 <= self.kappa <= 1.0:
            raise UsageError(f"kappa is {self.kappa}; give a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class Point:
    """Seconds at a sparsity."""

    sparsity: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RoundTime:
    """What an observed round took at its sparsity: load, train and serialise; download and upload, None if unknown."""

    sparsity: float
    training_s: float
    transfer_s: float | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one device: what training would take by its profile, and the rounds it was observed in."""

    profiled: tuple[Point, ...] = ()
    observed: tuple[RoundTime, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundCost:
    """T(α) = base_s + slope_s (1 - α), in seconds."""

    base_s: float
    slope_s: float

    def at(self, sparsity: float) -> float:
        """Seconds of a round at this sparsity."""
        return self.base_s + self.slope_s * (1.0 - sparsity)

    def __add__(self, other: "RoundCost") -> "RoundCost":
        return RoundCost(self.base_s + other.base_s, self.slope_s + other.slope_s)


def fit(known: Known) -> RoundCost | None:
    """The lines of training and of transfers, added; None where nothing is known.

    Training: least squares over the profile's points and the observed rounds, with one slope but a level each, for a
    profile's steps leave out what a round has around them: s = Σ_g Σ (x - x̄_g)(y - ȳ_g) / Σ_g Σ (x - x̄_g)² over both
    groups g, x = 1 - α; the level is that of the rounds, and the profile's before there is one. Without two sparsities
    in a group the slope is 0.
    Transfers: the line through the observed rounds. While they are all of one sparsity, it is taken to pass through
    0 s for nothing kept, which the first round at another sparsity confirms or corrects.
    """
    trained = tuple(Point(o.sparsity, o.training_s) for o in known.observed)
    moved = tuple(Point(o.sparsity, o.transfer_s) for o in known.observed if o.transfer_s is not None)
    groups = [group for group in (trained, known.profiled) if group]
    if not groups:
        return None
    training = _line(groups)
    if not moved:
        return training
    if _spread(moved) > SPREAD_MIN:
        return training + _line([moved])
    x_mean, y_mean = _means(moved)
    return training + RoundCost(0.0, y_mean / x_mean)


def _line(groups: Sequence[tuple[Point, ...]]) -> RoundCost:
    """The line of least squares with one slope for all groups, at the level of the first."""
    spread = math.fsum(_spread(group) for group in groups)
    shared = 0.0
    for group in groups:
        x_mean, y_mean = _means(group)
        shared += math.fsum((1.0 - p.sparsity - x_mean) * (p.seconds - y_mean) for p in group)
    slope = shared / spread if spread > SPREAD_MIN else 0.0
    x_mean, y_mean = _means(groups[0])
    return RoundCost(y_mean - slope * x_mean, slope)


def _spread(group: tuple[Point, ...]) -> float:
    """Σ (x - x̄)² of the densities."""
    x_mean, _ = _means(group)
    return math.fsum((1.0 - p.sparsity - x_mean) ** 2 for p in group)


def _means(group: tuple[Point, ...]) -> tuple[float, float]:
    """Mean density and mean seconds."""
    return fmean(1.0 - p.sparsity for p in group), fmean(p.seconds for p in group)


def capability_sparsities(rule: RatesRule, sparsity: float, known: Mapping[str, Known]) -> dict[str, float]:
    """The sparsity of every device of `known`, which is all members, each at least `sparsity`, the run's.

    clip(1 - (τ - b_n) / s_n, sparsity, sparsity_max) in steps of 1/GRID for a device with T_n > τ; the run's for the
    others, for one of which nothing is known, and for one without a usable slope: then pruning further would cost
    accuracy and save no time (`SAVING_SHARE_MIN`).
    """
    chosen = dict.fromkeys(known, sparsity)
    costs = {device: cost for device, points in known.items() if (cost := fit(points)) is not None}
    if not costs:
        return chosen
    target_s = quantile((cost.at(sparsity) for cost in costs.values()), rule.quantile)
    for device, cost in costs.items():
        time_s = cost.at(sparsity)
        saved_s = cost.slope_s * (rule.sparsity_max - sparsity)
        if time_s > target_s and saved_s > 0.0 and saved_s >= SAVING_SHARE_MIN * time_s:
            chosen[device] = _clipped(rule, sparsity, 1.0 - (target_s - cost.base_s) / cost.slope_s)
    return chosen


def contribution_sparsities(
    rule: RatesRule, sparsity: float, weights: Mapping[str, float], members: Iterable[str]
) -> dict[str, float]:
    """The sparsity of every member, each at least `sparsity`, the run's.

    clip(ᾱ + κ (r̄ - r_n) / max_m |r_m - r̄|, ᾱ, sparsity_max) in steps of 1/GRID, r of `weights` and r̄ their mean over
    the members; the run's for a member without a weight yet, and for all where the weights are equal.
    """
    members = list(members)
    known = {device: weights[device] for device in members if device in weights}
    chosen = dict.fromkeys(members, sparsity)
    mean = fmean(known.values()) if known else 0.0
    furthest = max((abs(r - mean) for r in known.values()), default=0.0)
    if furthest <= EQUAL_WEIGHTS * mean:
        return chosen
    for device, r in known.items():
        chosen[device] = _clipped(rule, sparsity, sparsity + rule.kappa * (mean - r) / furthest)
    return chosen


def _clipped(rule: RatesRule, sparsity: float, wanted: float) -> float:
    """On the grid, but never outside [sparsity, sparsity_max]."""
    return min(max(round(wanted * GRID) / GRID, sparsity), rule.sparsity_max)


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the others lie, between two neighbours in proportion.

    >>> quantile([4.0, 1.0, 2.0], 0.75)
    3.0
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
