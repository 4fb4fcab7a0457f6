"""The unit step: updates of unit length, so that the step does not depend on how far they went."""

import math

from aggregator.core.combining.interface import COMBININGS
from aggregator.core.combining.mean import Mean
from aggregator.core.combining.partial import Member, Partial, Sum
from aggregator.core.vectors import NORM_MIN
from device_runtime.wire.errors import UsageError


@COMBININGS.rule
class UnitStep(Mean, frozen=True, tag="unit"):
    """D = Γ U, U the weighted mean of the unit updates; it never anneals.

    unit_length: Γ (CGSV: 0.5 for MNIST, 0.15 for CIFAR-10).
    """

    unit_length: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.unit_length < math.inf:
            raise UsageError(f"unit_length is {self.unit_length}; give a positive number")

    def scored_change(self, name: str, partial: Partial, senders: list[Member]) -> Sum:
        """Γ U of one tensor."""
        return self.direction(name, partial, senders) * self.unit_length

    def direction(self, name: str, partial: Partial, senders: list[Member]) -> Sum:
        """U of one tensor, over those whose update has a direction."""
        return self.mean(partial.direction[name], sum(m.weight for m in senders if m.norm >= NORM_MIN))
