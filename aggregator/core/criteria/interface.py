"""What a criterion is: a score for every weight, by which the ones that stay are chosen."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from aggregator.core.registry import Registry
from device_runtime.wire.support import FloatArray, Params


@runtime_checkable
class Criterion(Protocol):
    """How much each weight is worth keeping."""

    def scores(self, theta: Params, names: Iterable[str]) -> dict[str, FloatArray]:
        """By name, a score for every element of the dense tensor, in its shape; the higher, the rather it is kept."""


CRITERIA: Registry[Criterion] = Registry("criterion", Criterion)
