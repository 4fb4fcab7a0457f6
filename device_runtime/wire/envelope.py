"""Messages to payload bytes and back: a versioned envelope around one typed message."""

from typing import Annotated

import msgspec
from msgspec import Meta

from device_runtime.wire import limits
from device_runtime.wire.errors import LocalWireError, RemoteWireError
from device_runtime.wire.messages import MESSAGE_TYPES, AssignmentId, Message, Name


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`signatures` are over the raw `payload` bytes; protocol 1 has no signing yet, so the list is empty."""

    protocol: int
    payload_type: Annotated[str, Meta(max_length=63)]
    payload: bytes
    signatures: Annotated[list[bytes], Meta(max_length=8)] = []


class _Addressed(msgspec.Struct, frozen=True):
    """What every version of an assignment says; unlike the messages, it lets unknown fields pass."""

    id: AssignmentId
    device: Name


_ENCODER = msgspec.msgpack.Encoder()
_ENVELOPE = msgspec.msgpack.Decoder(Envelope)
_ADDRESSED = msgspec.msgpack.Decoder(_Addressed)
# A text that is not UTF-8 is a UnicodeDecodeError to msgspec, deep nesting a RecursionError.
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PAYLOADS = {name: msgspec.msgpack.Decoder(type_) for name, type_ in MESSAGE_TYPES.items()}


def encode_message(message: Message) -> bytes:
    """One message as payload bytes.

    Raises LocalWireError when the message breaks its own limits: what we would refuse from a peer we do not send.
    """
    name = type(message).__name__
    payload = _ENCODER.encode(message)
    try:
        _PAYLOADS[name].decode(payload)
    except _MALFORMED as error:
        raise LocalWireError(f"a {name} breaks the contract: {error}") from error
    data = _ENCODER.encode(Envelope(limits.PROTOCOL_VERSION, name, payload))
    if len(data) > limits.ENVELOPE_BYTES_MAX:
        raise LocalWireError(f"a {name} of {len(data)} bytes exceeds {limits.ENVELOPE_BYTES_MAX}")
    return data


def decode_message(data: bytes, *, allow_unsigned: bool) -> Message:
    """The message in payload bytes.

    Raises RemoteWireError for too many bytes, malformed or unknown content, another protocol version, or a missing
    signature where one is demanded.
    """
    envelope = _opened(data, allow_unsigned)
    decoder = _PAYLOADS.get(envelope.payload_type)
    if decoder is None:
        raise RemoteWireError(f"unknown message type {envelope.payload_type!r}")
    try:
        message: Message = decoder.decode(envelope.payload)
    except _MALFORMED as error:
        raise RemoteWireError(f"a malformed {envelope.payload_type}: {error}") from error
    return message


def unreadable_assignment(data: bytes, device: str, *, allow_unsigned: bool) -> str | None:
    """The id of an assignment to `device` that `decode_message` refuses, so that the device can say so; None where the
    payload bytes are anything else."""
    try:
        envelope = _opened(data, allow_unsigned)
        addressed = _ADDRESSED.decode(envelope.payload) if envelope.payload_type == "Assignment" else None
    except (RemoteWireError, *_MALFORMED):
        return None
    return addressed.id if addressed is not None and addressed.device == device else None


def _opened(data: bytes, allow_unsigned: bool) -> Envelope:
    if len(data) > limits.ENVELOPE_BYTES_MAX:
        raise RemoteWireError(f"an envelope of {len(data)} bytes exceeds {limits.ENVELOPE_BYTES_MAX}")
    try:
        envelope = _ENVELOPE.decode(data)
    except _MALFORMED as error:
        raise RemoteWireError(f"not an envelope: {error}") from error
    if envelope.protocol != limits.PROTOCOL_VERSION:
        raise RemoteWireError(f"protocol {envelope.protocol} is not the {limits.PROTOCOL_VERSION} spoken here")
    if envelope.signatures or not allow_unsigned:
        raise RemoteWireError("signed envelopes cannot be verified yet, and unsigned ones need allow_unsigned = true")
    return envelope
