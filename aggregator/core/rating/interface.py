"""What a rating is: which devices are pruned further than the run, and how far."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from aggregator.core.rating.round_cost import Known
from aggregator.core.registry import Registry

GRID = 100
"""Sparsities are chosen in steps of 1/GRID: times are no better known, and equal ones share their blobs."""


@runtime_checkable
class Rating(Protocol):
    """How sparse each device's submodel is. Devices are only ever pruned further than the run, so that their masks lie
    inside the run's mask."""

    needs_times: ClassVar[bool]
    """Whether the times of devices decide: then somebody must have measured them."""

    def sparsities(self, sparsity: float, known: Mapping[str, Known], weights: Mapping[str, float]) -> dict[str, float]:
        """The sparsity of every device of `known`, which is all members, each at least `sparsity`, the run's.

        weights: r of those that have one yet.
        """


RATINGS: Registry[Rating] = Registry("rates", Rating)


def on_grid(wanted: float, sparsity: float, sparsity_max: float) -> float:
    """On the grid, but never outside [sparsity, sparsity_max]."""
    return min(max(round(wanted * GRID) / GRID, sparsity), sparsity_max)
