"""Which profiles are pulled: those that devices name in their hellos, each once, a few at a time (`pulls.py`).

A device's profile is settled by its SHA-256, whether it was kept or was no good: it is not pulled again until the
device names another. One that was given up, for the device was silent, is taken up by its next hello.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aggregator.core import pulls
from aggregator.core.pulls import PullRules, Pulls
from aggregator.core.round_events import Note, PullCommand
from device_runtime.wire import limits
from device_runtime.wire.messages import BlobRef, Chunk, Goodbye, Hello, Message

PULL_RULES = PullRules(limits.PROFILE_CHUNKS_MAX, limits.PROFILE_WINDOW_CHUNKS)


@dataclass(frozen=True, slots=True)
class ProfileState:
    """By device, the SHA-256 of what is kept or was no good; and what is pulled."""

    settled: Mapping[str, str] = field(default_factory=dict)
    pulls: Pulls = field(default=Pulls(PULL_RULES))


@dataclass(frozen=True, slots=True)
class KeepProfile:
    """Check the profile whose chunks were written and keep it; say so when it is none."""

    device: str
    sha: str


Command = PullCommand | KeepProfile | Note
Step = tuple[ProfileState, list[Command]]


def heard(state: ProfileState, device: str, message: Message, now_ns: int) -> Step:
    """The next state and what to do after a message of `device`. Never raises for anything a peer can cause."""
    match message:
        case Hello() if message.device == device:
            return _hello(state, device, message.profile, now_ns)
        case Goodbye() if message.device == device:
            return _pulling(state, pulls.drop(state.pulls, device, now_ns))
        case Chunk():
            return _chunk(state, device, message, now_ns)
        case _:
            return state, []


def tick(state: ProfileState, now_ns: int) -> Step:
    """Ask again where there was silence; where there was nothing else the next gets its turn."""
    pulling, commands, _ = pulls.tick(state.pulls, now_ns)
    return _pulling(state, (pulling, commands))


def _hello(state: ProfileState, device: str, profile: BlobRef | None, now_ns: int) -> Step:
    if profile is None or state.settled.get(device) == profile.sha:
        return _pulling(state, pulls.drop(state.pulls, device, now_ns))
    if profile.size_bytes > limits.PROFILE_BYTES_MAX:
        state, commands = _pulling(state, pulls.drop(state.pulls, device, now_ns))
        reason = f"it has {profile.size_bytes} bytes, more than {limits.PROFILE_BYTES_MAX}"
        return _settled(state, device, profile.sha), [*commands, _ignored(device, reason)]
    pull = state.pulls.under_way.get(device)
    if pull is not None and pull.download.sha == profile.sha:
        return state, []  # a heartbeat: what is lacking is asked for after a silence
    return _pulling(state, pulls.ask(state.pulls, device, profile, now_ns))


def _chunk(state: ProfileState, device: str, chunk: Chunk, now_ns: int) -> Step:
    outcome = pulls.take_in(state.pulls, device, chunk, now_ns)
    state, commands = _pulling(state, (outcome.pulls, outcome.commands))
    if outcome.fault:
        return _settled(state, device, chunk.sha), [*commands, _ignored(device, outcome.fault)]
    if outcome.whole:
        return _settled(state, device, chunk.sha), [*commands, KeepProfile(device, chunk.sha)]
    return state, commands


def _pulling(state: ProfileState, step: pulls.Step) -> Step:
    return replace(state, pulls=step[0]), list(step[1])


def _settled(state: ProfileState, device: str, sha: str) -> ProfileState:
    """The device must name another profile to be asked again."""
    return replace(state, settled={**state.settled, device: sha})


def _ignored(device: str, reason: str) -> Note:
    return Note(f"the profile of {device} is ignored: {reason}")
