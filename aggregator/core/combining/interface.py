"""What a combining rule is: how the updates of a round become one step of the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aggregator.core.combining.partial import Answers, Partial
from aggregator.core.registry import Registry
from device_runtime.wire.manifest import Role
from device_runtime.wire.support import FloatArray, Params


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """theta: float32, dense, after the step. covered: bool, every tensor, True where an update moved the coordinate."""

    theta: dict[str, FloatArray]
    covered: dict[str, NDArray[np.bool_]]


@runtime_checkable
class Combining(Protocol):
    """How updates are put together."""

    def combine(self, theta: Params, partial: Partial, answers: Answers, roles: Mapping[str, Role]) -> Stepped:
        """The step from the sums of the first pass; a rule that needs the updates themselves reads `answers` again.

        A coordinate that nothing moves keeps its bits. Raises UsageError when the step itself overflows float32.
        """


COMBININGS: Registry[Combining] = Registry("combining", Combining)
