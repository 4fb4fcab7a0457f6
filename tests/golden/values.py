"""What each recorded vector means: one message of every type and its variants, and one blob of every kind."""

import numpy as np

from device_runtime.wire.draws import Draws
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.messages import (
    Chunk,
    Get,
    Gone,
    Goodbye,
    MaskAdjustment,
    Message,
    Receipt,
    Refusal,
    Release,
    RollCall,
    Welcome,
)
from device_runtime.wire.submodel import ValueType, encode_kept, encode_supports
from device_runtime.wire.support import Kept, Support
from device_runtime.wire.tensors import Tensor, encode_files, encode_tensors
from device_runtime.wire.update import mask_extras
from tests import fakes

MESSAGES: dict[str, Message] = {
    type(message).__name__: message
    for message in (
        fakes.hello(),
        Goodbye(device="pi-1", session="s1", reason="released"),
        Gone(device="pi-1", session="s1"),
        RollCall(session="a1"),
        Welcome(round_index=3, heartbeat_s=30.0),
        fakes.assignment(),
        Get(sha=fakes.sha("blob"), indices=(0, 1, 7)),
        Chunk(sha=fakes.sha("blob"), index=1, size_bytes=122883, data=b"\x00\x01\xff"),
        fakes.offer(),
        Refusal(assignment_id="run-1-0-pi-1", device="pi-1", reason="out of memory"),
        Receipt(
            assignment_id="run-1-0-pi-1", update_sha=fakes.sha("update"), verdict="late", reason="its round is over"
        ),
        Release(reason="the run is finished"),
    )
}

# Messages with fields that are left out where they are empty.
VARIANTS: dict[str, Message] = {
    "Offer_kept_back": fakes.offer(kept_back=("fc2.bias", "fc2.weight")),
    "Welcome_unserved": Welcome(round_index=3, heartbeat_s=30.0, unserved="engine 'nope' is unknown here."),
    "Offer_extras": fakes.offer(extras=("mask",)),
    "Assignment_adjust": fakes.assignment(adjust=MaskAdjustment(after_epochs=3, share=0.25)),
}

MASK = np.array([[True, False, False, True, True], [False, False, True, False, True]])
SUPPORTS = {"fc.weight": Support.from_mask(MASK), "fc.bias": Support.everything((2,))}
SHAPES = {"fc.weight": (2, 5), "fc.bias": (2,)}
PARAMETERS = (
    Parameter(name="fc.weight", shape=(2, 5), role="weight", prunable=True),
    Parameter(name="fc.bias", shape=(2,), role="bias", prunable=False),
)
# One element of five has gone, and another has come.
MOVED = Support.from_mask(np.array([[True, True, False, True, False], [False, False, True, False, True]]))

# Multiples of 1/2 with the largest at 127/2: exact in fp32, in fp16, and in int8, whose scale is then 1/2.
VALUES = {
    "fc.weight": np.array([63.5, -63.5, 0.0, 1.5, -0.5], dtype=np.float32),
    "fc.bias": np.array([63.5, 2.0], dtype=np.float32),
}
TENSORS: dict[str, Tensor] = {
    "float32": np.array([[1.0, -2.5], [0.0, 3.0e-5]], dtype=np.float32),
    "float16": np.array([1.0, -0.5, 65504.0], dtype=np.float16),
    "int64": np.array([-1, 2**40], dtype=np.int64),
    "int8": np.array([-128, 127], dtype=np.int8),
    "uint8": np.array([], dtype=np.uint8),
    "scalar": np.array(7.0, dtype=np.float32),
}
FILES = {"manifest.json": b"{}\n", "train.onnx": bytes(range(256)), "empty.bin": b""}


def kept() -> dict[str, Kept]:
    """The values on their supports."""
    return {name: Kept(values, SUPPORTS[name]) for name, values in VALUES.items()}


def encode_moved() -> bytes:
    """The values as an update on the support that the device moved to, with the mask beside them."""
    moved = {name: Kept(k.values, MOVED if name == "fc.weight" else k.support) for name, k in kept().items()}
    return encode_kept(
        moved, lambda _: "fp32", lambda name: Draws(0, "golden", name), mask_extras({"fc.weight": MOVED})
    )


def encode_values(value_type: ValueType) -> bytes:
    """The values as an update of one type."""
    return encode_kept(kept(), lambda _: value_type, lambda name: Draws(0, "golden", name))


BLOBS = {
    "kept_fp32": lambda: encode_values("fp32"),
    "kept_fp16": lambda: encode_values("fp16"),
    "kept_int8": lambda: encode_values("int8"),
    "kept_moved": encode_moved,
    "supports": lambda: encode_supports(SUPPORTS),
    "tensors": lambda: encode_tensors(TENSORS),
    "files": lambda: encode_files(FILES),
}
