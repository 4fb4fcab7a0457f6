"""What a scoring rule is: how far each update contributes."""

from typing import Protocol, runtime_checkable

from aggregator.core.combining.partial import Answers, Partial
from aggregator.core.registry import Registry


@runtime_checkable
class Scoring(Protocol):
    """How contributions are measured."""

    def scores(self, partial: Partial, answers: Answers) -> dict[str, float]:
        """ψ by device, in the order of the updates: the second pass over them."""


SCORINGS: Registry[Scoring] = Registry("scoring", Scoring)
