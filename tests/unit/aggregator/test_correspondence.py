"""What the aggregator sends and counts: every payload byte, by device, once."""

from aggregator.correspondence import Correspondence
from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.timeline import Timeline
from device_runtime.store import BlobStore
from device_runtime.surroundings import Arrived, Station
from device_runtime.wire import limits
from device_runtime.wire.envelope import decode_message
from device_runtime.wire.messages import Chunk, Get, Release, Welcome
from device_runtime.wire.topics import all_topic, down_topic
from tests import fakes


class Listener:
    """All that is published at the site, by topic."""

    def __init__(self, tmp_path) -> None:
        self.timeline = Timeline()
        self.heard: list[Arrived] = []
        broker = MemoryBroker(self.timeline)
        broker.open_link(
            Station("listener", ("#",)), lambda e: isinstance(e, Arrived) and self.heard.append(e)
        ).connect()
        link = broker.open_link(Station("aggregator", ()), lambda _: None)
        link.connect()
        self.blobs = BlobStore(tmp_path)
        self.devices = Correspondence(link, "site", self.blobs)

    def _hear(self, event: object) -> None:
        if isinstance(event, Arrived):
            self.heard.append(event)

    def told(self) -> list[tuple[str, object]]:
        self.devices.publish()
        self.timeline.run(lambda: False, 1.0)
        return [(e.topic, decode_message(e.payload, allow_unsigned=True)) for e in self.heard]


def test_what_is_sent_and_received_is_counted_by_device_and_taken_once(tmp_path):
    site = Listener(tmp_path)
    welcome = Welcome(round_index=1, heartbeat_s=5.0)
    site.devices.send("a", welcome)
    site.devices.send("a", welcome)
    site.devices.received("a", b"12345")
    site.devices.received("b", b"12")
    site.timeline.run(lambda: False, 1.0)
    assert site.heard == [], "it may rest on what is not on disk yet"
    assert site.told() == [(down_topic("site", "a"), welcome)] * 2
    down = sum(len(event.payload) for event in site.heard)
    assert site.devices.take_traffic() == {"a": (5, down), "b": (2, 0)}
    assert site.devices.take_traffic() == {}


def test_a_broadcast_reaches_the_topic_of_all_and_is_counted_for_nobody(tmp_path):
    site = Listener(tmp_path)
    site.devices.broadcast(Release(reason="over"))
    assert site.told() == [(all_topic("site"), Release(reason="over"))]
    assert site.devices.take_traffic() == {}


def test_the_chunks_asked_for_are_served_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 4)
    monkeypatch.setattr("device_runtime.store.CHUNK_BYTES_MAX", 4, raising=False)
    site = Listener(tmp_path)
    sha = site.blobs.put(b"0123456789")
    site.devices.serve("a", Get(sha=sha, indices=(2, 0, 7)))
    site.devices.serve("a", Get(sha=fakes.sha("unknown"), indices=(0,)))
    assert [message for _, message in site.told()] == [
        Chunk(sha=sha, index=2, size_bytes=10, data=b"89"),
        Chunk(sha=sha, index=0, size_bytes=10, data=b"0123"),
    ]


def served(site: Listener, *gets: tuple[str, Get]) -> list[tuple[str, int]]:
    """To whom which chunks go out when all this is asked for at once."""
    before = len(site.heard)
    for device, get in gets:
        site.devices.serve(device, get)
    return [(topic.split("/")[-2], chunk.index) for topic, chunk in site.told()[before:]]


def test_a_chunk_asked_for_many_times_at_once_is_served_once(tmp_path):
    site = Listener(tmp_path)
    sha = site.blobs.put(b"x")
    get = Get(sha=sha, indices=(0,) * 64)
    assert served(site, *[("a", get)] * 400) == [("a", 0)]
    assert served(site, ("a", get)) == [("a", 0)], "who lost it may ask again"


def test_no_device_is_served_more_than_its_window_at_once_and_none_takes_that_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 1)
    site = Listener(tmp_path)
    sha = site.blobs.put(bytes(64))
    greedy = [("greedy", Get(sha=sha, indices=tuple(range(start, start + 8)))) for start in range(0, 64, 8)]
    assert served(site, *greedy, ("modest", Get(sha=sha, indices=(5, 6)))) == [
        *(("greedy", index) for index in range(8)),
        ("modest", 5),
        ("modest", 6),
    ]
