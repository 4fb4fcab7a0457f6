"""Pulling what devices offer, as a pure state machine: first come, first served, a bounded number of chunks under way.

    ask --> waiting --places are free--> under way --every chunk written--> whole
              ^                             |  \\--a chunk that lies-------> spoilt
              +-------- asked again --------+---silence, again and again--> given up

A place is one chunk under way, and a pull takes as many as its window has. What ends has left the machine: whoever
asked may ask again. Chunks are not held here: each is to be written down as it comes, so memory does not grow with the
number of devices or the size of what they offer. Updates and profiles are pulled by one machine each, by their own
rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aggregator.core.round_events import DropChunks, PullCommand, Send, WriteChunk
from aggregator.core.table import Line
from device_runtime.wire import limits, transfer
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import BlobRef, Chunk
from device_runtime.wire.transfer import Download

SILENCE_NS = 3_000_000_000
SILENCES_MAX = 5
"""So many in a row, and a pull gives its places to the next."""


@dataclass(frozen=True, slots=True)
class PullRules:
    """`chunks_max` places in all; of one blob `window_chunks` at most are under way."""

    chunks_max: int
    window_chunks: int

    def __post_init__(self) -> None:
        assert self.window_chunks <= self.chunks_max, "whoever is first in the line must find places some day"


@dataclass(frozen=True, slots=True)
class Pull:
    """A blob under way, and how often in a row nothing new came."""

    download: Download
    retry_due_ns: int
    silences: int = 0


@dataclass(frozen=True, slots=True)
class Pulls:
    """By device, what waits for its places, and what is under way: one blob of a device at a time."""

    rules: PullRules
    waiting: Line[str, BlobRef] = field(default_factory=Line)
    under_way: Mapping[str, Pull] = field(default_factory=dict)  # no more than there are places


Step = tuple[Pulls, list[PullCommand]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step after which a pull may have ended: with its blob `whole`, or spoilt for the reason in `fault`."""

    pulls: Pulls
    commands: list[PullCommand]
    whole: bool = False
    fault: str = ""


def ask(pulls: Pulls, device: str, blob: BlobRef, now_ns: int) -> Step:
    """Want a blob of a device, in place of another that was wanted of it.

    One that waits goes on waiting. One under way is asked for at once, for the device may have restarted; it is not
    heard by that, so who offers without ever answering loses its places as who is silent does.
    """
    pull = pulls.under_way.get(device)
    if pull is not None and pull.download.sha == blob.sha:
        download, get = transfer.retry(pull.download)
        return _under_way(pulls, device, replace(pull, download=download)), [Send(device, get)] if get else []
    if pulls.waiting.get(device) == blob:
        return pulls, []
    pulls, commands = _without(pulls, device)
    return _start(replace(pulls, waiting=pulls.waiting.join(device, blob)), commands, now_ns)


def take_in(pulls: Pulls, device: str, chunk: Chunk, now_ns: int) -> Outcome:
    """Take in a chunk. One that nobody asked this device for, or that is here already, changes nothing."""
    pull = pulls.under_way.get(device)
    if pull is None or pull.download.sha != chunk.sha:
        return Outcome(pulls, [])
    try:
        download = transfer.accept(pull.download, chunk)
    except RemoteWireError as error:
        return Outcome(*drop(pulls, device, now_ns), fault=str(error))
    if len(download.chunks) == len(pull.download.chunks):
        return Outcome(pulls, [])  # no progress: a place must not be held by it
    commands: list[PullCommand] = [WriteChunk(device, chunk)]
    if download.complete:
        return Outcome(*_start(_ended(pulls, device), commands, now_ns), whole=True)
    download, get = transfer.request(download)
    pulls = _under_way(pulls, device, Pull(download, now_ns + SILENCE_NS))
    return Outcome(pulls, [*commands, Send(device, get)] if get else commands)


def tick(pulls: Pulls, now_ns: int) -> tuple[Pulls, list[PullCommand], tuple[str, ...]]:
    """Ask again where there was silence, and give up where there was nothing else; the third value says on whom."""
    commands: list[PullCommand] = []
    given_up = []
    for device, pull in pulls.under_way.items():
        if now_ns < pull.retry_due_ns:
            continue
        if pull.silences + 1 >= SILENCES_MAX:
            given_up.append(device)
            pulls, more = _without(pulls, device)
            commands += more
            continue
        download, get = transfer.retry(pull.download)
        pulls = _under_way(pulls, device, Pull(download, now_ns + SILENCE_NS, pull.silences + 1))
        commands += [Send(device, get)] if get else []
    return *_start(pulls, commands, now_ns), tuple(given_up)


def drop(pulls: Pulls, device: str, now_ns: int) -> Step:
    """Want nothing of the device any more; its places go to the next."""
    return _start(*_without(pulls, device), now_ns)


def drop_all(pulls: Pulls) -> Step:
    """Want nothing of anybody any more."""
    return Pulls(pulls.rules), [DropChunks(device, pull.download.sha) for device, pull in pulls.under_way.items()]


def _start(pulls: Pulls, commands: list[PullCommand], now_ns: int) -> Step:
    """Give free places to those that wait, in their order."""
    if not pulls.waiting:
        return pulls, commands
    free = pulls.rules.chunks_max - sum(_places(pulls.rules, p.download.size_bytes) for p in pulls.under_way.values())
    while (first := pulls.waiting.first()) is not None:
        device, blob = first
        free -= _places(pulls.rules, blob.size_bytes)
        if free < 0:
            break
        download, get = transfer.request(
            Download(
                blob.sha,
                size_bytes_max=limits.BLOB_BYTES_MAX,
                size_bytes=blob.size_bytes,
                window=pulls.rules.window_chunks,
                gathers=False,
            )
        )
        pulls = replace(pulls, waiting=pulls.waiting.leave(device))
        pulls = _under_way(pulls, device, Pull(download, now_ns + SILENCE_NS))
        commands = [*commands, Send(device, get)] if get else commands
    return pulls, commands


def _places(rules: PullRules, size_bytes: int | None) -> int:
    """How many chunks of a blob are under way at most."""
    return min(rules.window_chunks, transfer.chunk_count(size_bytes or 0))


def _without(pulls: Pulls, device: str) -> Step:
    """Nothing of the device waits or is under way; what was written of it goes."""
    pull = pulls.under_way.get(device)
    if pull is not None:
        return _ended(pulls, device), [DropChunks(device, pull.download.sha)]
    return replace(pulls, waiting=pulls.waiting.leave(device)), []


def _ended(pulls: Pulls, device: str) -> Pulls:
    return replace(pulls, under_way={d: p for d, p in pulls.under_way.items() if d != device})


def _under_way(pulls: Pulls, device: str, pull: Pull) -> Pulls:
    return replace(pulls, under_way={**pulls.under_way, device: pull})
