"""By capability: whoever is slower than the others is pruned further, to keep step (specification, section 7)."""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

from aggregator.core.rating.interface import RATINGS, on_grid
from aggregator.core.rating.round_cost import Known, fit
from aggregator.core.registry import Rule
from device_runtime.wire.errors import UsageError

SAVING_SHARE_MIN = 0.05
"""A slope counts when pruning as far as allowed saves at least this share of the round: repeats of one measurement lie
as far apart (the profile's verdict calls them noisy beyond it)."""


@RATINGS.rule
class Capability(Rule, frozen=True, tag="capability"):
    """τ is a quantile over the members of T_n(ᾱ), ᾱ the run's sparsity; a device slower than τ gets the α at which it
    would take τ.

    sparsity_max: the furthest a device is pruned. quantile: which of the members' times is τ, 0 the fastest, 1 the
    slowest.
    """

    needs_times: ClassVar[bool] = True

    sparsity_max: float = 0.95
    quantile: float = 0.5

    def __post_init__(self) -> None:
        check_sparsity_max(self.sparsity_max)
        if not 0.0 <= self.quantile <= 1.0:
            raise UsageError(f"quantile is {self.quantile}; give a number from 0 to 1")

    def sparsities(self, sparsity: float, known: Mapping[str, Known], weights: Mapping[str, float]) -> dict[str, float]:
        """clip(1 - (τ - b_n) / s_n, sparsity, sparsity_max) on the grid for a device with T_n > τ.

        The run's for the others, for one of which nothing is known, and for one without a usable slope: then pruning
        further would cost accuracy and save no time (`SAVING_SHARE_MIN`).
        """
        chosen = dict.fromkeys(known, sparsity)
        costs = {device: cost for device, points in known.items() if (cost := fit(points)) is not None}
        if not costs:
            return chosen
        target_s = quantile_of((cost.at(sparsity) for cost in costs.values()), self.quantile)
        for device, cost in costs.items():
            time_s = cost.at(sparsity)
            saved_s = cost.slope_s * (self.sparsity_max - sparsity)
            if time_s > target_s and saved_s > 0.0 and saved_s >= SAVING_SHARE_MIN * time_s:
                wanted = 1.0 - (target_s - cost.base_s) / cost.slope_s
                chosen[device] = on_grid(wanted, sparsity, self.sparsity_max)
        return chosen


def check_sparsity_max(sparsity_max: float) -> None:
    """Raise UsageError for a bound that is no sparsity."""
    if not 0.0 <= sparsity_max < 1.0:
        raise UsageError(f"sparsity_max is {sparsity_max}; give a number of at least 0 and below 1")


def quantile_of(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the others lie, between two neighbours in proportion.

    >>> quantile_of([4.0, 1.0, 2.0], 0.75)
    3.0
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
