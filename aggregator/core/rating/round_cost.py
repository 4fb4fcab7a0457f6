"""What a round costs a device at some sparsity: T(α) = b + s (1 - α), fitted to its profile and its rounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

SPREAD_MIN = 1e-6
"""Densities closer together than this, as a sum of squares, are one: rounding of counts moves them a little."""


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


NOTHING_KNOWN = Known()


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
