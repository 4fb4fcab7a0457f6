"""What goes wrong in a simulation: how likely, on the way between two ends, and under the hands of a process."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import pytest

from aggregator.ledger import Ledger
from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.timeline import Timeline
from device_runtime import store
from device_runtime.store import BlobStore
from device_runtime.surroundings import Arrived
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import Chunk


class Crash(BaseException):
    """The process dies here. No handler of ours may catch it."""


@dataclass(frozen=True)
class Faults:
    """How likely each misfortune is: of a message; of a process at a write, a message or a tick; of a training."""

    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    delay_s: float = 0.05
    crash: float = 0.0
    crash_count_max: int = 0
    partition: float = 0.0
    refusal: float = 0.0
    goodbye: float = 0.0
    death: float = 0.0


LOSS = Faults(loss=0.15, duplication=0.1, corruption=0.01, delay_s=4.0)
CRASH = Faults(loss=0.05, duplication=0.05, delay_s=1.0, crash=0.02, crash_count_max=15, partition=0.01)
TROUBLE = replace(CRASH, refusal=0.2, goodbye=0.005, death=0.002)


class LossyBroker(MemoryBroker):
    """Loses, doubles, delays and corrupts what it carries; nothing passes to or from a client that is cut off.

    `seen` is told of every message before it is sent, with its sender's name, and may end that process.
    """

    def __init__(self, timeline: Timeline, chance: random.Random, faults: Faults) -> None:
        super().__init__(timeline)
        self.seen: Callable[[str, Arrived], None] = lambda *_: None
        self._chance = chance
        self._faults = faults

    def publish(self, sender: str, topic: str, payload: bytes) -> None:
        self.seen(sender, Arrived(topic, payload))
        super().publish(sender, topic, payload)

    def carry(self, sender: str, receiver: str, arrived: Arrived) -> None:
        faults, chance = self._faults, self._chance
        for _ in range(2 if chance.random() < faults.duplication else 1):
            if chance.random() < faults.loss:
                continue
            payload = arrived.payload
            if chance.random() < faults.corruption:
                payload = _corrupted(payload)
            delay_s = chance.uniform(0.001, faults.delay_s)
            self.timeline.after(delay_s, partial(self.deliver, receiver, Arrived(arrived.topic, payload)))


def _corrupted(payload: bytes) -> bytes:
    """The same message with a bit of its blob turned over; of any other message, one that cannot be read."""
    try:
        message = decode_message(payload, allow_unsigned=True)
    except RemoteWireError:
        return payload
    if isinstance(message, Chunk) and message.data:
        flipped = bytes([message.data[0] ^ 1]) + message.data[1:]
        return encode_message(msgspec.structs.replace(message, data=flipped))
    return payload[:-1]


class _Disk:
    """The module `os` as `device_runtime.store` sees it: a process may die before or after a file gets its name."""

    def __init__(self, may_die: Callable[[], None]) -> None:
        self._may_die = may_die

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        """Asked for a file before it gets its name, and for its folder after; files here outlive a process anyway."""
        self._may_die()


def tear(blobs: BlobStore) -> None:
    """What was added and not made durable is lost with the process that added it."""
    pack = blobs._pack
    with suppress(FileNotFoundError):
        os.truncate(pack._path, pack._synced_end)


def install(monkeypatch: pytest.MonkeyPatch, may_die: Callable[[], None]) -> None:
    """Let processes die at what they make durable: before it, and after it, when they have told nobody yet."""
    transaction, checkpoint = Ledger._transaction, Ledger.checkpoint

    @contextmanager
    def mortal(ledger: Ledger) -> Iterator[object]:
        may_die()
        with transaction(ledger) as db:
            yield db
        may_die()

    def mortally_checked(ledger: Ledger) -> None:
        may_die()
        checkpoint(ledger)
        may_die()

    monkeypatch.setattr(Ledger, "_transaction", mortal)
    monkeypatch.setattr(Ledger, "checkpoint", mortally_checked)
    monkeypatch.setattr(store, "os", _Disk(may_die))
