"""What a growth rule is: which of the weights that are off the mask come back."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aggregator.core.masks import Mask
from aggregator.core.registry import Registry
from device_runtime.wire.draws import Draws


@runtime_checkable
class Growth(Protocol):
    """How a layer regrows."""

    def grow(self, mask: Mask, count: int, draws: Draws) -> NDArray[np.int64]:
        """Flat indices of `count` coordinates off `mask`; of all there are, when there are fewer.

        draws: the layer's own stream of this round.
        """


GROWTHS: Registry[Growth] = Registry("growth", Growth)
