"""The state that a committed round leaves behind, in its form on disk."""

from collections.abc import Mapping

import msgspec
import numpy as np

from aggregator.core.dense_model import ModelState
from aggregator.core.method import Memory, RunState
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.tensors import Tensor, decode_tensors, encode_tensors

_RECORD = "record"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is no tensor, and the order of the parameters, which a blob forgets and layer budgets are rounded by."""

    names: tuple[str, ...]
    memory: dict[str, object]


def encode_state(state: RunState) -> bytes:
    """The state as one blob; equal states give equal bytes."""
    model = state.model
    flat: dict[str, Tensor] = {f"theta/{n}": p for n, p in model.theta.items()}
    for kind, masks in (("mask", model.masks), ("trained", model.trained)):
        flat |= {f"{kind}/{n}": np.packbits(m.ravel()) for n, m in masks.items()}
    flat |= {f"memory/{n}": tensor for n, tensor in state.memory.tensors.items()}
    record = msgspec.json.encode(_Record(tuple(model.theta), dict(state.memory.record)))
    flat[_RECORD] = np.frombuffer(record, dtype=np.uint8)
    return encode_tensors(flat)


def decode_state(data: bytes) -> RunState:
    """The state of a blob. Raises RemoteWireError for a blob that is no state."""
    flat = decode_tensors(data)
    try:
        record = msgspec.json.decode(flat[_RECORD].tobytes(), type=_Record)
        theta = {name: flat[f"theta/{name}"] for name in record.names}
        masks, trained = (_masks(flat, kind, theta) for kind in ("mask", "trained"))
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise RemoteWireError(f"not a state blob: {error}") from error
    tensors = {n.removeprefix("memory/"): tensor for n, tensor in flat.items() if n.startswith("memory/")}
    return RunState(ModelState(theta, masks, trained), Memory(record.memory, tensors))


def _masks(flat: Mapping[str, Tensor], kind: str, theta: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The masks of one kind, in the order of the parameters."""
    found = {}
    for name, value in theta.items():
        packed = flat.get(f"{kind}/{name}")
        if packed is not None:
            found[name] = np.unpackbits(packed)[: value.size].astype(np.bool_).reshape(value.shape)
    return found
