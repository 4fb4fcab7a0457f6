"""Pulling the profiles that devices offer, as a pure state machine: a few at a time, and never in the way of a round.

    hello names a profile --> waiting --a place is free--> under way --all chunks here--> settled, and to be kept
                                 ^                            |  \\--broken-------------> settled, and ignored
                                 +--hello, after silences-----+

A device's profile is settled by its SHA-256: it is not pulled again until the device names another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aggregator.core.round_events import Note, Send
from device_runtime.wire import limits, transfer
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import BlobRef, Chunk, Goodbye, Hello, Message
from device_runtime.wire.transfer import Download

SILENCE_NS = 3_000_000_000
SILENCES_MAX = 5
"""So many in a row, and a pull gives its place to the next; the device's next hello puts it in the queue again."""


@dataclass(frozen=True, slots=True)
class Pull:
    """A profile under way, and how often in a row nothing came."""

    download: Download
    retry_due_ns: int
    silences: int = 0


@dataclass(frozen=True, slots=True)
class ProfileState:
    """By device: the SHA-256 of what is kept or was no good, what waits for a place (first come, first served), and
    what is under way."""

    settled: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, BlobRef] = field(default_factory=dict)
    pulls: Mapping[str, Pull] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeepProfile:
    """Check the bytes of a device's profile and keep them; say so when they are none."""

    device: str
    data: bytes


Command = Send | KeepProfile | Note
Step = tuple[ProfileState, list[Command]]


def heard(state: ProfileState, device: str, message: Message, now_ns: int) -> Step:
    """The next state and what to do after a message of `device`. Never raises for anything a peer can cause."""
    match message:
        case Hello() if message.device == device:
            return _hello(state, device, message.profile, now_ns)
        case Goodbye() if message.device == device:
            return _start(_without(state, device), [], now_ns)
        case Chunk():
            return _chunk(state, device, message, now_ns)
        case _:
            return state, []


def tick(state: ProfileState, now_ns: int) -> Step:
    """Ask again where there was silence, and give up where there was nothing else."""
    commands: list[Command] = []
    for device, pull in state.pulls.items():
        if now_ns < pull.retry_due_ns:
            continue
        if pull.silences + 1 >= SILENCES_MAX:
            state = _without(state, device)
            continue
        download, get = transfer.retry(pull.download)
        state = _under_way(state, device, Pull(download, now_ns + SILENCE_NS, pull.silences + 1))
        commands += [Send(device, get)] if get else []
    return _start(state, commands, now_ns)


def _hello(state: ProfileState, device: str, profile: BlobRef | None, now_ns: int) -> Step:
    if profile is None or state.settled.get(device) == profile.sha:
        return _start(_without(state, device), [], now_ns)
    if profile.size_bytes > limits.PROFILE_BYTES_MAX:
        reason = f"it has {profile.size_bytes} bytes, more than {limits.PROFILE_BYTES_MAX}"
        return _ignore(state, device, profile.sha, reason, now_ns)
    pull = state.pulls.get(device)
    if pull is not None and pull.download.sha == profile.sha:
        return state, []
    state = replace(state, pulls={d: p for d, p in state.pulls.items() if d != device})
    return _start(replace(state, waiting={**state.waiting, device: profile}), [], now_ns)


def _start(state: ProfileState, commands: list[Command], now_ns: int) -> Step:
    """Give every free place to the next that waits."""
    while state.waiting and len(state.pulls) < limits.PROFILE_PULLS_MAX:
        device, profile = next(iter(state.waiting.items()))
        fresh = Download(
            profile.sha,
            limits.PROFILE_BYTES_MAX,
            size_bytes=profile.size_bytes,
            window=limits.PROFILE_WINDOW_CHUNKS,
        )
        download, get = transfer.request(fresh)
        state = _under_way(_without(state, device), device, Pull(download, now_ns + SILENCE_NS))
        commands = [*commands, Send(device, get)] if get else commands
    return state, commands


def _chunk(state: ProfileState, device: str, chunk: Chunk, now_ns: int) -> Step:
    pull = state.pulls.get(device)
    if pull is None or pull.download.sha != chunk.sha:
        return state, []
    try:
        download = transfer.accept(pull.download, chunk)
        data = transfer.assemble(download) if download.complete else None
    except RemoteWireError as error:
        return _ignore(state, device, chunk.sha, str(error), now_ns)
    if len(download.chunks) == len(pull.download.chunks):
        return state, []  # one that is here already is no progress: a place must not be held by it
    if data is not None:
        return _start(_settle(state, device, chunk.sha), [KeepProfile(device, data)], now_ns)
    download, get = transfer.request(download)
    state = _under_way(state, device, Pull(download, now_ns + SILENCE_NS))
    return state, [Send(device, get)] if get else []


def _ignore(state: ProfileState, device: str, sha: str, reason: str, now_ns: int) -> Step:
    """Say once what is wrong; the device must name another profile to be asked again."""
    note = Note(f"the profile of {device} is ignored: {reason}")
    return _start(_settle(state, device, sha), [note], now_ns)


def _settle(state: ProfileState, device: str, sha: str) -> ProfileState:
    return replace(_without(state, device), settled={**state.settled, device: sha})


def _without(state: ProfileState, device: str) -> ProfileState:
    """Nothing of the device waits or is under way."""
    if device not in state.waiting and device not in state.pulls:
        return state
    waiting = {d: p for d, p in state.waiting.items() if d != device}
    return replace(state, waiting=waiting, pulls={d: p for d, p in state.pulls.items() if d != device})


def _under_way(state: ProfileState, device: str, pull: Pull) -> ProfileState:
    return replace(state, pulls={**state.pulls, device: pull})
