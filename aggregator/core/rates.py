"""Sparsity per device: what a round costs a device at some sparsity, and who is pruned further to keep step.

T_n(α) = b_n + s_n (1 - α), fitted to what is known of device n. τ is a quantile over the members of T_n(ᾱ), ᾱ the
run's sparsity; a device slower than τ gets the α at which it would take τ (capability rates, specification section 7).
By contribution, a device gets the more sparsity the lower its weight r_n lies under the mean. Devices are only ever
pruned further than the run, so that their masks lie inside the run's mask.
"""

import math
from collections.abc import Iterable, Mapping
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
    """One time: what a round took, or by its profile would take, at this sparsity."""

    sparsity: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one device: the points of its profile, and the rounds it was observed in."""

    profiled: tuple[Point, ...] = ()
    observed: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundCost:
    """T(α) = base_s + slope_s (1 - α), in seconds; the slope is 0 where all points are of one sparsity."""

    base_s: float
    slope_s: float

    def at(self, sparsity: float) -> float:
        """Seconds of a round at this sparsity."""
        return self.base_s + self.slope_s * (1.0 - sparsity)


def fit(known: Known) -> RoundCost | None:
    """The line through the points by least squares, None where there are none.

    Profile and rounds share the slope but have a level each, for a profile's points are training alone and a round's
    have the transfers in them: s = Σ_g Σ (x - x̄_g)(y - ȳ_g) / Σ_g Σ (x - x̄_g)² over both groups g, x = 1 - α. The level
    is that of the rounds, and the profile's before there is a round. So one observed round corrects the level, and the
    slope is the profile's until rounds at several sparsities say otherwise.
    """
    groups = [group for group in (known.observed, known.profiled) if group]
    if not groups:
        return None
    spread = shared = 0.0
    for group in groups:
        x_mean, y_mean = _means(group)
        spread += math.fsum((1.0 - p.sparsity - x_mean) ** 2 for p in group)
        shared += math.fsum((1.0 - p.sparsity - x_mean) * (p.seconds - y_mean) for p in group)
    # Below this the points are of one sparsity, which rounding of counts moves a little.
    slope = shared / spread if spread > 1e-6 else 0.0
    x_mean, y_mean = _means(groups[0])
    return RoundCost(y_mean - slope * x_mean, slope)


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


def _means(group: tuple[Point, ...]) -> tuple[float, float]:
    """Mean density and mean seconds."""
    return fmean(1.0 - p.sparsity for p in group), fmean(p.seconds for p in group)
