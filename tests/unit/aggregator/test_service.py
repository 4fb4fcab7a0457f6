"""The aggregator's shell: what it does while a round closes on its worker, and how it stops then."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator import service
from aggregator.federation import Federation
from aggregator.ledger import Ledger
from aggregator.run_events import DeviceJoined, ProfileKept, Refused, RoundClosed, RoundCommitted, RunEvent
from aggregator.service import Aggregator
from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.seat import Seat
from aggregator.simulation.timeline import Timeline
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.profile.record import encode_profile
from device_runtime.runner import Device
from device_runtime.surroundings import Arrived, MachineClock, Station, Surroundings, ThreadWorker
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.messages import Assignment, BlobRef, Chunk, Get, Message, Receipt, Welcome
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.topics import down_topic, up_topic
from tests import fakes
from tests.profiles import make_case, make_profile
from tests.sim import engine
from tests.sim.plan import SITE, Plan, run_settings

CLOSING_S = 100.0


class Peer:
    """A client that speaks for a device by hand."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.heard: list[Message] = []
        self._topic = up_topic(SITE, name)
        self._link = broker.open_link(Station(f"{SITE}-{name}", (down_topic(SITE, name),)), self._hear)
        self._link.connect()

    def _hear(self, event: object) -> None:
        if isinstance(event, Arrived):
            self.heard.append(decode_message(event.payload, allow_unsigned=True))

    def say(self, message: Message) -> None:
        self._link.publish(self._topic, encode_message(message))

    def told(self, kind: type) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]


class Site:
    """An aggregator whose rounds take `CLOSING_S` to close, and one device; the round's quorum is that one."""

    def __init__(self, folder: Path) -> None:
        self.timeline = Timeline()
        self.broker = MemoryBroker(self.timeline, delay_s=0.1)
        self.settings = run_settings(Plan(rounds=2, devices=1, quorum=1, deadline_s=30.0), folder / "run")
        self.events: list[RunEvent] = []
        self.seat = Seat(self.broker, work_s=CLOSING_S)
        self.aggregator = Aggregator(self.settings, self.seat.surroundings, [self.events.append])
        self.seat.take(self.aggregator)
        data = folder / "data.npz"
        np.savez(data, x=np.ones((4, 3), np.float32), y=np.zeros(4, np.int64))
        device = DeviceSettings(
            name="d0",
            folder=str(folder / "d0"),
            data=DataSettings(source=str(data)),
            link=LinkSettings(site=SITE, allow_unsigned=True),
            engine="fake",
        )
        self.device_seat = Seat(self.broker)
        self.device_seat.take(Device(device, self.device_seat.surroundings))

    def until_closing(self) -> None:
        assert self.timeline.run(lambda: self.aggregator._state.stage == "closing", 60.0)

    def pass_by(self, seconds: float) -> None:
        self.timeline.run(lambda: False, seconds)

    def happened(self, kind: type) -> list[RunEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    engine.install(monkeypatch, lambda: False)
    return Site(tmp_path)


def test_devices_are_answered_while_a_round_closes(site):
    site.until_closing()
    profile = encode_profile(make_profile(make_case()))
    peer = Peer(site.broker, "late")
    ref = BlobRef(sha=sha256_hex(profile), size_bytes=len(profile))
    peer.say(msgspec.structs.replace(fakes.hello("late"), profile=ref))
    site.pass_by(1.0)
    assert peer.told(Welcome) == [Welcome(round_index=1, heartbeat_s=5.0)]
    assert peer.told(Assignment) == [], "its round is the next"
    assert [event.device for event in site.happened(DeviceJoined)] == ["d0", "late"]
    (get,) = peer.told(Get)
    peer.say(Chunk(sha=get.sha, index=0, size_bytes=len(profile), data=profile))
    peer.say(fakes.offer(fakes.assignment("late")))
    site.pass_by(1.0)
    assert [event.device for event in site.happened(ProfileKept)] == ["late"]
    assert [receipt.verdict for receipt in peer.told(Receipt)] == ["late"]
    assert site.happened(RoundCommitted) == []
    site.pass_by(CLOSING_S)
    assert [event.round_index for event in site.happened(RoundClosed)] == [1]
    assert [assignment.model_version for assignment in peer.told(Assignment)] == [2]


def test_a_round_that_closes_is_committed_when_the_worker_is_through_and_not_before(site):
    site.until_closing()
    site.pass_by(CLOSING_S - 1.0)
    assert site.aggregator._ledger.last_committed() is None
    site.pass_by(1.5)
    committed = site.aggregator._ledger.last_committed()
    assert committed is not None
    assert committed[0] == 1


def test_every_listener_hears_the_same(tmp_path, monkeypatch):
    engine.install(monkeypatch, lambda: False)
    first: list[RunEvent] = []
    second: list[RunEvent] = []
    seat = Seat(MemoryBroker(Timeline()))
    seat.take(Aggregator(run_settings(Plan(), tmp_path / "run"), seat.surroundings, [first.append, second.append]))
    assert first == second
    assert len(first) == 1


def test_a_round_takes_from_its_first_opening_to_its_commit_over_every_attempt(site, monkeypatch):
    fails = iter([True])
    monkeypatch.setattr(engine.FakeTrainer, "fails", staticmethod(lambda: next(fails, False)))
    site.until_closing()
    site.pass_by(CLOSING_S + 1.0)
    (result,) = site.happened(RoundCommitted)
    assert [event.reason for event in site.happened(Refused)] == ["it will not do"]
    assert 30.0 + CLOSING_S <= result.wall_s < 60.0 + CLOSING_S


# --- stopping, on the machine's own clock and threads -----------------------------------------------------------------


class Alone:
    """A link on which nobody ever says anything."""

    bytes_published = bytes_received = 0

    def connect(self) -> None: ...

    def publish(self, topic: str, payload: bytes) -> None: ...

    def flush(self, timeout_s: float = 2.0) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def again(site: Site) -> Iterator[Callable[[], Aggregator]]:
    """Starts the run again where all have answered and nothing is committed: a kill while the round closed."""
    site.until_closing()
    surroundings = Surroundings(lambda _station, _post: Alone(), MachineClock(), ThreadWorker())
    return lambda: Aggregator(site.settings, surroundings, [site.events.append])


def committed(site: Site) -> int:
    ledger = Ledger(Path(site.settings.run.folder) / "ledger.sqlite", read_only=True)
    found = ledger.last_committed()
    ledger.close()
    return 0 if found is None else found[0]


def test_a_kill_while_a_round_closes_loses_nothing(site, again):
    aggregator = again()
    aggregator.begin()
    aggregator.turn(None)
    outcome = aggregator.inbox.take(60.0)
    assert committed(site) == 0
    aggregator.turn(outcome)
    assert committed(site) == 1
    (result,) = site.happened(RoundCommitted)
    assert [device.name for device in result.devices] == ["d0"]
    aggregator.end()


def test_a_round_goes_on_taking_time_after_a_restart(site, again):
    aggregator = again()
    with sqlite3.connect(Path(site.settings.run.folder) / "ledger.sqlite") as db:
        db.execute("UPDATE rounds SET opened_at = datetime('now', '-1000 seconds')")
    aggregator.end()
    aggregator = again()
    aggregator.begin()
    aggregator.turn(None)
    aggregator.turn(aggregator.inbox.take(60.0))
    (result,) = site.happened(RoundCommitted)
    assert 999.0 <= result.wall_s < 1060.0
    aggregator.end()


def test_whoever_stops_it_waits_for_a_round_that_closes(site, again, monkeypatch):
    stop, close = threading.Event(), Federation.close

    def slow(*arguments):
        stop.set()
        time.sleep(0.5)
        return close(*arguments)

    monkeypatch.setattr(Federation, "close", slow)
    assert not again().run(stop)
    assert committed(site) == 1


def test_whoever_stops_it_does_not_wait_forever_and_the_next_start_closes_the_round(site, again, monkeypatch):
    stop, through, close = threading.Event(), threading.Event(), Federation.close

    def endless(*arguments):
        stop.set()
        through.wait(60.0)
        return close(*arguments)

    monkeypatch.setattr(service, "CLOSING_S_MAX", 0.1)
    monkeypatch.setattr(Federation, "close", endless)
    start = time.monotonic()
    assert not again().run(stop)
    assert time.monotonic() - start < 30
    assert committed(site) == 0
    through.set()
    monkeypatch.setattr(Federation, "close", close)
    aggregator = again()
    aggregator.begin()
    aggregator.turn(None)
    aggregator.turn(aggregator.inbox.take(60.0))
    assert committed(site) == 1
    aggregator.end()


def test_a_bug_on_the_worker_ends_the_process(site, again, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Federation, "close", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        again().run(threading.Event())
    assert committed(site) == 0
