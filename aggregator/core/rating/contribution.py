"""By contribution: the lower a device's weight lies under the mean, the further it is pruned."""

from collections.abc import Mapping
from statistics import fmean
from typing import ClassVar

from aggregator.core.rating.capability import check_sparsity_max
from aggregator.core.rating.interface import RATINGS, on_grid
from aggregator.core.rating.round_cost import Known
from aggregator.core.registry import Rule
from device_runtime.wire.errors import UsageError

EQUAL_WEIGHTS = 1e-9
"""Weights that differ by no more than this share of their mean are equal but for rounding."""


@RATINGS.rule
class ByContribution(Rule, frozen=True, tag="contribution"):
    """sparsity_max: the furthest a device is pruned. kappa: κ, what the lowest weight adds to the sparsity at most."""

    needs_times: ClassVar[bool] = False

    sparsity_max: float = 0.95
    kappa: float = 0.2

    def __post_init__(self) -> None:
        check_sparsity_max(self.sparsity_max)
        if not 0.0 <= self.kappa <= 1.0:
            raise UsageError(f"kappa is {self.kappa}; give a number from 0 to 1")

    def sparsities(self, sparsity: float, known: Mapping[str, Known], weights: Mapping[str, float]) -> dict[str, float]:
        """clip(ᾱ + κ (r̄ - r_n) / max_m |r_m - r̄|, ᾱ, sparsity_max) on the grid, r̄ the mean of r over the members.

        The run's for a member without a weight yet, and for all where the weights are equal.
        """
        weighted = {device: weights[device] for device in known if device in weights}
        chosen = dict.fromkeys(known, sparsity)
        mean = fmean(weighted.values()) if weighted else 0.0
        furthest = max((abs(r - mean) for r in weighted.values()), default=0.0)
        if furthest <= EQUAL_WEIGHTS * mean:
            return chosen
        for device, r in weighted.items():
            chosen[device] = on_grid(sparsity + self.kappa * (mean - r) / furthest, sparsity, self.sparsity_max)
        return chosen
