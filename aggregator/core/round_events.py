"""What the round machine hears and what it asks for: its events and its commands, plain values both."""

from collections.abc import Mapping
from dataclasses import dataclass

from device_runtime.wire.messages import Assignment, Chunk, Get, Hello, Message, Offer, Receipt, Refusal

# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A message from a device, on that device's own topic."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Opened:
    """The round's blobs and assignments are on disk; an update may have `update_bytes_max` bytes."""

    assignments: tuple[Assignment, ...]
    update_bytes_max: int


@dataclass(frozen=True, slots=True)
class Unservable:
    """The round is not opened: no artifact can be made for these of its devices, for these reasons."""

    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checked:
    """An update was checked and its verdict is on disk."""

    device: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Spoilt:
    """The update that was to be checked is not the one that was offered."""

    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The round's result is committed."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = Heard | Opened | Unservable | Checked | Spoilt | Closed | Tick


# --- commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Publish a message to one device."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Publish a message to every device."""

    message: Message


@dataclass(frozen=True, slots=True)
class Enrol:
    """Make the membership of a device durable; `returns` when it was a member before."""

    hello: Hello
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Depart:
    """Make durable that a device is no longer a member."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class OpenRound:
    """Build and record the assignments of these devices, in this order; answer with Opened, or with Unservable."""

    round_index: int
    attempt: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckUpdate:
    """Check the update whose chunks were written, journal the verdict; answer with Checked, or with Spoilt."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class RejectUpdate:
    """Journal that an offered update is refused unseen; answer with Checked."""

    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True)
class RecordRefusal:
    """Make durable that a device could not carry out its assignment."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class CloseRound:
    """Aggregate the accepted updates, evaluate, commit; answer with Closed."""

    round_index: int


@dataclass(frozen=True, slots=True)
class WriteChunk:
    """Write a chunk of what is pulled from a device to its place on disk."""

    device: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class DropChunks:
    """Forget what was written of a blob that is not pulled from the device any more."""

    device: str
    sha: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Publish chunks of a blob to a device."""

    device: str
    get: Get


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person may want to know."""

    text: str


Bookkeeping = Enrol | Depart | RecordRefusal | Note
PullCommand = Send | WriteChunk | DropChunks
Command = PullCommand | Broadcast | OpenRound | CheckUpdate | RejectUpdate | CloseRound | Serve | Bookkeeping
