"""What happens in a run, as plain records: terminal, JSON lines, logs, and whoever else listens hear the same stream.

Every record is a line of JSON too, {"event": tag, …its fields}: what `espalier aggregator run --json` prints, and what
the demo reads back from its child.
"""

from collections.abc import Callable

import msgspec

from aggregator.results import RoundResult
from device_runtime.wire.messages import Verdict


class Happened(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened in a run."""


class Started(Happened, frozen=True, tag="started"):
    """The aggregator is connected; `round_index` is the round that is gathered for or under way."""

    run: str
    round_index: int


class DeviceJoined(Happened, frozen=True, tag="device_joined"):
    """A device is a member. `members`: how many there are now, of how many the first round waits for, in words."""

    device: str
    sample_count: int
    members: str


class DeviceReturned(Happened, frozen=True, tag="device_returned"):
    """A member said hello with something new: it was restarted, or its data or profile changed."""

    device: str
    sample_count: int
    members: str


class DeviceLeft(Happened, frozen=True, tag="device_left"):
    """A device is a member no more."""

    device: str
    reason: str


class Refused(Happened, frozen=True, tag="refused"):
    """A device cannot carry out its assignment."""

    device: str
    reason: str


class ProfileKept(Happened, frozen=True, tag="profile"):
    """The profile of a device is in the run folder."""

    device: str
    verdict: str
    bytes: int


class RoundOpened(Happened, frozen=True, tag="round_opened"):
    """A round, or a further attempt of it, is assigned: to these devices, at these sparsities."""

    round_index: int
    devices: list[str]
    sparsities: list[float]


class UpdateJudged(Happened, frozen=True, tag="update"):
    """An update has its verdict, which is on disk."""

    device: str
    verdict: Verdict
    reason: str
    bytes: int
    step_ms_p50: float | None


class RoundCommitted(RoundResult, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """A round is committed: its result."""


class RoundClosed(Happened, frozen=True, tag="round_closed"):
    """Nothing more comes of this round; the next may open."""

    round_index: int


class Noted(Happened, frozen=True, tag="note"):
    """Something a person may want to know. The text may be a device's: make it plain before a terminal shows it."""

    text: str


class Finished(Happened, frozen=True, tag="finished"):
    """The last round is committed, and the result written into this folder."""

    folder: str


RunEvent = (
    Started
    | DeviceJoined
    | DeviceReturned
    | DeviceLeft
    | Refused
    | ProfileKept
    | RoundOpened
    | UpdateJudged
    | RoundCommitted
    | RoundClosed
    | Noted
    | Finished
)
Listener = Callable[[RunEvent], None]


def committed(result: RoundResult) -> RoundCommitted:
    """The event that tells a round's result."""
    return RoundCommitted(**msgspec.structs.asdict(result))
