"""A device for which no artifact can be made ends no aggregator, new or restarted: it is told why, and waits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.core.round_state import RoundState
from aggregator.ledger import Ledger
from aggregator.run_events import RunEvent
from aggregator.service import Aggregator
from aggregator.settings import LinkSettings, RoundsSection, RunSection, Settings
from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.seat import Seat
from aggregator.simulation.timeline import Timeline
from device_runtime.surroundings import Arrived, Station
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.messages import Assignment, Hello, Message, Welcome
from device_runtime.wire.topics import down_topic, up_topic

SITE = "home"


class Site:
    """An aggregator on a timeline, killed and started again at will."""

    def __init__(self, folder: Path, **rounds: object) -> None:
        self.timeline = Timeline()
        self.broker = MemoryBroker(self.timeline)
        self.settings = Settings(
            run=RunSection(folder=str(folder)),
            input=InputSpec(shape=(64,)),
            rounds=RoundsSection(**({"count": 3, "devices_min": 1, "quorum": 1} | rounds)),
            link=LinkSettings(site=SITE, allow_unsigned=True),
        )
        self.events: list[RunEvent] = []
        self.start()

    def start(self) -> None:
        self.seat = Seat(self.broker)
        self.seat.take(Aggregator(self.settings, self.seat.surroundings, [self.events.append]))

    def kill(self) -> None:
        self.seat.link.dead()
        self.seat.shell._ledger.close()
        self.seat.shell = None

    @property
    def state(self) -> RoundState:
        return self.seat.shell._state

    def passes(self, seconds: float = 1.0) -> None:
        self.timeline.run(lambda: False, seconds)

    def members(self) -> list[str]:
        """Of the ledger, as another process reads it."""
        ledger = Ledger(Path(self.settings.run.folder) / "ledger.sqlite", read_only=True)
        return [hello.device for hello, member, _, _ in ledger.devices() if member]


class Peer:
    """A device that does as it is told, and keeps what it hears."""

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self.heard: list[Message] = []
        self._site = site
        self._link = site.broker.open_link(Station(f"{SITE}-{name}", (down_topic(SITE, name),)), self._hear)
        self._link.connect()

    def _hear(self, event: object) -> None:
        if isinstance(event, Arrived):
            self.heard.append(decode_message(event.payload, allow_unsigned=True))

    def says(self, *messages: Message) -> None:
        for message in messages:
            self._link.publish(up_topic(SITE, self.name), encode_message(message))
        self._site.passes()

    def hello(self, *engines: str) -> None:
        self.says(Hello(device=self.name, session="s1", engines=engines, sample_count=5, version="0"))

    def of(self, kind: type) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Site]:
    return lambda **rounds: Site(tmp_path / "run", **rounds)


@pytest.mark.parametrize("engines", [("nope",), (), ("nope", "neither")], ids=["unknown", "none", "two unknown"])
def test_a_device_without_an_engine_that_can_be_served_is_told_why_and_ends_nothing(made, engines):
    site = made()
    peer = Peer(site, "d1")
    peer.hello(*engines)
    welcome = peer.heard[-1]
    assert isinstance(welcome, Welcome)
    assert welcome.unserved.startswith(f"no artifact can be made for engines {', '.join(engines) or '(none)'}: ")
    assert (site.state.stage, site.members()) == ("gathering", [])
    site.kill()
    site.start()
    site.passes(10)
    assert site.state.stage == "gathering"
    peer.hello(*engines)
    assert peer.of(Welcome)[-1].unserved == welcome.unserved
    assert peer.of(Assignment) == []


def test_a_device_that_comes_back_with_an_engine_that_can_be_served_takes_part(made):
    site = made()
    peer = Peer(site, "d1")
    peer.hello("nope")
    peer.hello("nope", "portable")
    assert peer.of(Welcome)[-1].unserved == ""
    assert [a.id.split("-", 1)[1] for a in peer.of(Assignment)] == ["1-0-d1"]
    assert site.members() == ["d1"]


def test_one_that_cannot_be_served_disturbs_no_round_under_way(made):
    site = made(devices_min=2)
    good, bad, other = (Peer(site, name) for name in ("good", "bad", "other"))
    good.hello("portable")
    bad.hello()
    assert site.state.stage == "gathering", "the round is for two that can be served"
    other.hello("portable")
    assert sorted(site.state.tasks) == ["good", "other"]
    assert bad.of(Welcome)[-1].unserved
    bad.hello("nope")
    assert (site.state.stage, sorted(site.state.tasks)) == ("open", ["good", "other"])
    site.kill()
    site.start()
    site.passes(10)
    assert (site.state.stage, sorted(site.state.tasks)) == ("open", ["good", "other"])


def test_a_member_on_disk_that_cannot_be_served_any_more_does_not_end_the_next_start(made):
    """What an aggregator left that ended at it."""
    site = made(devices_min=2)
    Peer(site, "d1").hello("portable")
    site.kill()
    ledger = Ledger(Path(site.settings.run.folder) / "ledger.sqlite")
    ledger.enrol(Hello(device="d2", session="s1", engines=("nope",), sample_count=5, version="0"))
    ledger.close()
    site.start()
    site.passes(10)
    assert (site.state.stage, site.members()) == ("gathering", ["d1"])
    Peer(site, "d3").hello("portable")
    assert sorted(site.state.tasks) == ["d1", "d3"]
