"""What a committed round leaves behind, and its form on disk."""

from dataclasses import dataclass

import msgspec
import numpy as np

from aggregator.core.contribution import ContributionState
from aggregator.core.residuals import ModelState
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.tensors import Tensor, decode_tensors, encode_tensors

_CONTRIBUTION = "contribution"


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """The model (dense, masks, what was trained) and the record of contributions."""

    model: ModelState
    contribution: ContributionState


def encode_state(state: RunState) -> bytes:
    """The state as one blob; equal states give equal bytes."""
    model = state.model
    flat: dict[str, Tensor] = {f"theta/{n}": p for n, p in model.theta.items()}
    for kind, masks in (("mask", model.masks), ("trained", model.trained)):
        flat |= {f"{kind}/{n}": np.packbits(m.ravel()) for n, m in masks.items()}
    record = msgspec.json.encode(state.contribution)
    flat[_CONTRIBUTION] = np.frombuffer(record, dtype=np.uint8)
    return encode_tensors(flat)


def decode_state(data: bytes) -> RunState:
    """The state of a blob. Raises RemoteWireError for a blob that is no state."""
    flat = decode_tensors(data)
    theta = {n.removeprefix("theta/"): a for n, a in flat.items() if n.startswith("theta/")}

    def masks(kind: str) -> dict[str, np.ndarray]:
        found = {}
        for name, packed in flat.items():
            if name.startswith(f"{kind}/"):
                shape = theta[name.removeprefix(f"{kind}/")].shape
                bits = np.unpackbits(packed)[: int(np.prod(shape, dtype=np.int64))]
                found[name.removeprefix(f"{kind}/")] = bits.astype(np.bool_).reshape(shape)
        return found

    try:
        contribution = msgspec.json.decode(flat[_CONTRIBUTION].tobytes(), type=ContributionState)
        return RunState(ModelState(theta, masks("mask"), masks("trained")), contribution)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise RemoteWireError(f"not a state blob: {error}") from error
