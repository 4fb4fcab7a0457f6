"""What the agent of a device hears and what it asks for: its events and its commands, plain values both."""

from dataclasses import dataclass

from device_runtime.wire.messages import Assignment, Get, Message, Offer, Receipt

# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up and subscribed."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is down; it will come back by itself."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message for this device, other than an assignment."""

    message: Message


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment arrived; the shell adds which of its blobs are not in the store, and a spooled offer for it."""

    assignment: Assignment
    lacking: tuple[str, ...]
    spooled: Offer | None


@dataclass(frozen=True, slots=True)
class Trained:
    """Training is done; `update` are the bytes that `offer` names."""

    offer: Offer
    update: bytes


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """The assignment cannot be carried out, for `reason`."""

    assignment_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An assignment arrived that this version cannot read, for `reason`; no more of it is known than its id."""

    assignment_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = Connected | Disconnected | Received | Assigned | Trained | TrainingFailed | Unreadable | Tick


# --- commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the aggregator."""

    message: Message


@dataclass(frozen=True, slots=True)
class StoreBlob:
    """Keep a downloaded, verified blob."""

    sha: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Train an assignment whose blobs are all in the store; answer with Trained or TrainingFailed."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class SpoolUpdate:
    """Make the update and its offer durable, before anything is said of it."""

    offer: Offer
    update: bytes


@dataclass(frozen=True, slots=True)
class Serve:
    """Publish the chunks that the aggregator asked for, from the spool or of the profile."""

    get: Get


@dataclass(frozen=True, slots=True)
class Unspool:
    """The update has its receipt: forget it."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell whoever looks after the device."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End the process in good order."""

    reason: str


Command = Publish | StoreBlob | Train | SpoolUpdate | Serve | Unspool | Warn | Leave
