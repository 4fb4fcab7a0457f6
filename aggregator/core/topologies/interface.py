"""What a topology is: whether and how the run's mask moves between rounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

from aggregator.core.masks import Mask, Masks
from aggregator.core.pruning import Pruning
from aggregator.core.registry import Registry
from device_runtime.wire.draws import Draws
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import FloatArray, Params


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The end of a round, when the mask may move.

    theta: dense, after averaging. masks: those of the round, prunable names only. covered: every tensor, True where an
    update moved the coordinate, which may reach beyond `masks`. initial: θ before round 1.
    draws_for: the stream of a layer in this round.
    """

    round_index: int
    pruning: Pruning
    theta: Params
    masks: Masks
    covered: Masks
    initial: Params
    draws_for: Callable[[str], Draws]


@runtime_checkable
class Topology(Protocol):
    """How the mask moves once the dense rounds, if any, are over."""

    needs_scores: ClassVar[bool]
    """Whether devices need gradients of the weights off the mask."""

    def for_rounds(self, round_count: int) -> Self:
        """The same for a run of so many rounds, with what depends on that filled in."""

    def adjustment(self, round_index: int, pruning: Pruning) -> MaskAdjustment | None:
        """What devices do to their own masks in a round; None where the aggregator alone moves the mask."""

    def next_masks(self, turn: Turn) -> dict[str, Mask]:
        """The masks after a round."""

    def grown_values(self, turn: Turn, masks: Masks) -> dict[str, FloatArray]:
        """By name, dense values of which those newly kept by `masks` start; a missing name keeps θ's own."""


TOPOLOGIES: Registry[Topology] = Registry("topology", Topology)
