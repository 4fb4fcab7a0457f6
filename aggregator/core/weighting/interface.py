"""What a weighting is: how much each device's update counts, with a memory of its own from round to round."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from aggregator.core.registry import Registry


@runtime_checkable
class Weighting(Protocol):
    """How devices are weighted. `Remembered` stands for the rule's own record, which is committed with every round."""

    Remembered: ClassVar[type[msgspec.Struct]]

    def start(self) -> Any:
        """What is remembered before round 1."""

    def join(self, known: Any, sample_counts: Mapping[str, int]) -> Any:
        """With these participants of the round known; sample_counts: their local samples, in order of names."""

    def weights(self, known: Any) -> Mapping[str, float]:
        """r of every known device, sum 1."""

    def learn(self, known: Any, scores: Mapping[str, float]) -> Any:
        """After a round in which the devices of `scores` took part."""


WEIGHTINGS: Registry[Weighting] = Registry("weighting", Weighting)
