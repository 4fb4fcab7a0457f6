"""What an update holds: local minus received values on the supports they lie on, and beside them what was asked for.

An extra of kind K for parameter P is the tensor `P#K`. There is one kind: "mask", the mask that the device moved.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from device_runtime.wire import kept_back
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.messages import Assignment, MaskAdjustment, Offer
from device_runtime.wire.submodel import (
    HEADER_BYTES_PER_TENSOR,
    decode_kept,
    kept_bytes_max,
    kept_of,
    packed_mask,
    unpacked_mask,
)
from device_runtime.wire.support import Kept, Support
from device_runtime.wire.tensors import Tensor, decode_tensors

MASK: Final = "mask"
_TENSOR_BYTES = 1024  # room for a tensor's header, scale and compression frame


def extras_of(assignment: Assignment) -> tuple[str, ...]:
    """The kinds of extra tensors that an assignment asks for."""
    return () if assignment.adjust is None else (MASK,)


def extra_name(parameter: str, kind: str) -> str:
    """The name of the tensor that is the extra of this kind for a parameter."""
    return f"{parameter}#{kind}"


def movable(parameters: Iterable[Parameter], keeps_back: Sequence[str]) -> tuple[str, ...]:
    """The parameters whose mask a device moves where it is asked to: the prunable ones that it sends.

    A tensor that the device keeps for itself has the mask of its assignment for good: where it moved, nobody would know
    in the next round, and the mask assigned then would undo it.
    """
    return tuple(p.name for p in parameters if p.prunable and p.name not in keeps_back)


def mask_extras(supports: Mapping[str, Support]) -> dict[str, Tensor]:
    """The masks of these parameters' supports as extra tensors."""
    return {extra_name(name, MASK): packed_mask(support) for name, support in supports.items()}


def update_bytes_max(supports: Mapping[str, Support], extras: Sequence[str] = ()) -> int:
    """The most bytes that an update on these supports can have as a blob."""
    masks = sum((int(np.prod(s.shape)) + 7) // 8 + _TENSOR_BYTES for s in supports.values()) if MASK in extras else 0
    return sum(4 * s.count + _TENSOR_BYTES for s in supports.values()) + masks


def decode_update(
    data: bytes, offer: Offer, assignment: Assignment, supports: Mapping[str, Support], parameters: Sequence[Parameter]
) -> dict[str, Kept]:
    """The differences in an update, each on the support it lies on, in the order of `supports`.

    supports: those assigned. parameters: those of the model.
    Raises RemoteWireError where `decode_kept` does, for tensors kept back that may not be, for extras other than those
    asked for, and for a mask that does not fit, keeps another number of elements or moved more than was asked for.
    """
    if why := kept_back.fault(offer.kept_back, parameters):
        raise RemoteWireError(f"the offer keeps back what it may not: {why}")
    wanted = extras_of(assignment)
    if sorted(offer.extras) != sorted(wanted):
        raise RemoteWireError(f"the offer names the extras {_listed(offer.extras)}; asked for: {_listed(wanted)}")
    sent = kept_back.sent(supports, offer.kept_back)
    if assignment.adjust is None:
        return decode_kept(data, sent)
    names = movable(parameters, offer.kept_back)
    mask_bytes = sum((int(np.prod(sent[n].shape)) + 7) // 8 + HEADER_BYTES_PER_TENSOR for n in names)
    flat = decode_tensors(data, decoded_bytes_max=kept_bytes_max(sent) + mask_bytes)
    moved = {n: _moved(n, flat.pop(extra_name(n, MASK), None), sent[n], assignment.adjust) for n in names}
    return kept_of(flat, {n: moved.get(n, support) for n, support in sent.items()})


def _moved(name: str, packed: Tensor | None, assigned: Support, adjust: MaskAdjustment) -> Support:
    """The support a device ended with, checked against the one it was assigned."""
    if packed is None:
        raise RemoteWireError(f"the mask of {name!r} is missing")
    support = unpacked_mask(name, packed, assigned.shape)
    kept, found = assigned.count, support.count
    if found != kept:
        raise RemoteWireError(f"the mask of {name!r} keeps {found} elements where {kept} were assigned")
    gone = int(np.count_nonzero(assigned.dense_mask() & ~support.dense_mask()))
    if gone > adjust.moved(kept):
        raise RemoteWireError(f"the mask of {name!r} moved {gone} of {kept} elements; at most {adjust.moved(kept)} may")
    return support


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(repr(kind) for kind in kinds) or "none"
