"""What a residual rule is: which values stay on the aggregator where the mask prunes."""

from typing import Protocol, runtime_checkable

from aggregator.core.masks import Mask
from aggregator.core.registry import Registry


@runtime_checkable
class Residual(Protocol):
    """What stands off the mask of the dense model."""

    def kept(self, mask: Mask, trained: Mask) -> Mask:
        """True where a value stays, False where it becomes 0; True wherever the mask is.

        trained: True where some device has trained the coordinate at least once.
        """


RESIDUALS: Registry[Residual] = Registry("residual", Residual)
