"""Moving a mask on the device: the smallest kept weights go, and those with the largest gradient come.

FedDST (Bibikar et al., AAAI 2022), as the authors' code has it: the gradient is of one batch at the trained values,
before any went, without the proximal term. Unlike there, only what is off the mask can come, so that no kept weight is
set to 0, and a weight that has just gone may come back.
"""

from dataclasses import dataclass

import numpy as np

from device_runtime.wire.errors import LocalWireError
from device_runtime.wire.largest import largest, largest_kept
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import FloatArray, Kept, Support


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A tensor's support after the smallest have gone, and after as many have come."""

    reduced: Support
    grown: Support


def move(name: str, kept: Kept, scores: FloatArray, adjust: MaskAdjustment) -> Move | None:
    """Where the tensor's support moves; None where it stays, because it is whole or too few are kept for one to go.

    scores: float32, at least 0, of the tensor's shape. Of equal values the lower flat index stays, or comes.
    Raises LocalWireError for values or scores that are not finite.
    """
    if not (np.isfinite(kept.values).all() and np.isfinite(scores).all()):
        raise LocalWireError(f"parameter {name!r} has values or gradients that are not finite: the training diverged")
    count = adjust.moved(kept.support.count)
    mask = kept.support.dense_mask()
    if count == 0 or mask.all():
        return None
    reduced = largest_kept(np.abs(kept.dense()), mask, kept.support.count - count)
    grown = largest(np.where(reduced, np.float32(-1.0), scores), count)  # what is kept comes last of all
    return Move(Support.from_mask(reduced), Support.from_mask(reduced | grown))
