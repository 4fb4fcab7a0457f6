"""A peer that keeps to no rule: what it sends is malformed, out of turn, about others, or a lie."""

from random import Random

import msgspec

from aggregator.simulation.memory_link import MemoryBroker
from device_runtime.surroundings import Arrived, Station
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import (
    Assignment,
    BlobRef,
    Chunk,
    Get,
    Gone,
    Goodbye,
    Hello,
    Message,
    Offer,
    Receipt,
    Refusal,
    Release,
    RollCall,
)
from device_runtime.wire.topics import all_topic, down_topic, up_topic
from tests import fakes

NAME = "m0"


class Mischief:
    """Sends something every few seconds, on the topic that the broker lets it write to."""

    def __init__(self, broker: MemoryBroker, site: str, chance: Random) -> None:
        self._chance = chance
        self._timeline = broker.timeline
        self._topic = up_topic(site, NAME)
        station = Station(f"{site}-{NAME}", (down_topic(site, NAME), all_topic(site)))
        self._link = broker.open_link(station, self._hear)
        self._assignments = [fakes.assignment(NAME), fakes.assignment("d0")]
        self._wanted: list[Get] = []
        self._sessions = 0

    def begin(self) -> None:
        self._link.connect()
        self._send()

    def _hear(self, event: object) -> None:
        if not isinstance(event, Arrived):
            return
        try:
            message = decode_message(event.payload, allow_unsigned=True)
        except RemoteWireError:
            return
        if isinstance(message, Assignment):
            self._assignments.append(message)
        if isinstance(message, Get):
            self._wanted.append(message)

    def _send(self) -> None:
        self._link.publish(self._topic, self._payload())
        self._timeline.after(self._chance.uniform(0.5, 8), self._send)

    def _payload(self) -> bytes:
        data = encode_message(self._message())
        match self._chance.randrange(6):
            case 0:
                return data[: self._chance.randrange(len(data))]
            case 1:
                at = self._chance.randrange(len(data))
                return data[:at] + bytes([data[at] ^ 1 << self._chance.randrange(8)]) + data[at + 1 :]
            case _:
                return data

    def _message(self) -> Message:
        pick = self._chance.choice
        of, lie = pick(self._assignments), pick(("lie", "another lie"))
        name = pick((NAME, NAME, "d0"))
        if self._wanted and self._chance.random() < 0.5:
            get = self._wanted.pop()
            return Chunk(sha=get.sha, index=pick(get.indices or (0,)), size_bytes=pick((3, 300)), data=b"lie")
        return pick(
            [
                self._hello(),
                self._hello(),
                Goodbye(device=name, session=self._session()),
                Gone(device=name, session=self._session()),
                Get(sha=pick((of.graph_sha, of.params_sha, fakes.sha(lie))), indices=(0, 1, 2000)),
                Chunk(sha=fakes.sha(lie), index=pick((0, 7)), size_bytes=3, data=b"lie"),
                self._offer(of, name),
                self._offer(of, name),
                Refusal(assignment_id=of.id, device=name, reason=lie),
                Receipt(assignment_id=of.id, update_sha=fakes.sha(lie), verdict="accepted"),
                RollCall(session="s1"),
                Release(reason=lie),
                of,
            ]
        )

    def _session(self) -> str:
        self._sessions += self._chance.randrange(2)
        return f"s{self._sessions}"

    def _hello(self) -> Hello:
        engines = self._chance.choice([("fake",), ("exotic", "fake"), ("exotic",), ()])
        profile = self._chance.choice([None, BlobRef(sha=fakes.sha("profile"), size_bytes=300)])
        return Hello(
            device=NAME, session=self._session(), engines=engines, sample_count=0, version="0", profile=profile
        )

    def _offer(self, of: Assignment, name: str) -> Offer:
        offer = fakes.offer(of, self._chance.choice([b"lie", b"l" * 200]))
        size_bytes = self._chance.choice([offer.size_bytes, 0, 2**20])
        kept_back = self._chance.choice([(), ("fc1.weight",), ("nothing",)])
        return msgspec.structs.replace(offer, device=name, size_bytes=size_bytes, kept_back=kept_back)
