"""The device's shell, on a link in memory: what it answers, and that time passes for it whatever it hears."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.seat import Seat
from aggregator.simulation.timeline import Timeline
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.runner import Device
from device_runtime.surroundings import Arrived, Station
from device_runtime.wire import limits
from device_runtime.wire.envelope import Envelope, decode_message, encode_message
from device_runtime.wire.messages import Assignment, Goodbye, Hello, Message, Refusal, Release, RollCall, Welcome
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.topics import down_topic, up_topic
from device_runtime.wire.version import VERSION
from tests import fakes
from tests.sim import engine

SITE, NAME = "site", "d0"


class Gateway:
    """The other end of the link, played by the test."""

    def __init__(self, folder: Path) -> None:
        self.timeline = Timeline()
        self.heard: list[Message] = []
        broker = MemoryBroker(self.timeline, delay_s=0.01)
        self._link = broker.open_link(Station("gateway", (up_topic(SITE, NAME),)), self._hear)
        self._link.connect()
        np.savez(folder / "data.npz", x=np.ones((4, 3), np.float32), y=np.zeros(4, np.int64))
        settings = DeviceSettings(
            name=NAME,
            folder=str(folder / NAME),
            data=DataSettings(source=str(folder / "data.npz")),
            link=LinkSettings(site=SITE, allow_unsigned=True),
            engine="fake",
        )
        self.seat = Seat(broker, tick_s=60.0)
        self.seat.take(Device(settings, self.seat.surroundings))

    def _hear(self, event: object) -> None:
        if isinstance(event, Arrived):
            self.heard.append(decode_message(event.payload, allow_unsigned=True))

    def say(self, message: Message | bytes) -> list[Message]:
        """What the device answers within a second."""
        before = len(self.heard)
        payload = message if isinstance(message, bytes) else encode_message(message)
        self._link.publish(down_topic(SITE, NAME), payload)
        self.pass_by(1.0)
        return self.heard[before:]

    def pass_by(self, seconds: float) -> None:
        self.timeline.run(lambda: False, seconds)


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    engine.install(monkeypatch, lambda: False)
    made = Gateway(tmp_path)
    made.pass_by(1.0)
    assert [type(message) for message in made.heard] == [Hello]
    made.say(Welcome(round_index=1, heartbeat_s=30.0))
    return made


def later_version(of: Assignment) -> bytes:
    """The assignment as a version writes it that knows one more field."""
    payload = msgspec.msgpack.encode(msgspec.to_builtins(of) | {"colour": "green"})
    return msgspec.msgpack.encode(Envelope(limits.PROTOCOL_VERSION, "Assignment", payload))


def test_an_assignment_of_a_later_version_is_refused_and_the_field_named(gateway):
    of = fakes.assignment(NAME)
    (refusal,) = gateway.say(later_version(of))
    assert isinstance(refusal, Refusal)
    assert (refusal.assignment_id, refusal.device) == (of.id, NAME)
    assert refusal.reason.startswith(f"version {VERSION} cannot read it: ")
    assert "`colour`" in refusal.reason


def test_an_assignment_of_a_later_version_for_another_and_what_is_no_message_are_ignored(gateway):
    assert gateway.say(later_version(fakes.assignment("another"))) == []
    assert gateway.say(b"noise") == []
    assert gateway.say(RollCall(session="s1")) != [], "the device goes on"


def test_time_passes_while_messages_never_cease(gateway):
    """A tick comes with a message where none came by itself: the heartbeat does not wait for silence."""
    gateway.heard.clear()
    for _ in range(70):  # more often than a shell without messages would tick
        gateway.say(b"noise")
    assert [type(message) for message in gateway.heard].count(Hello) >= 2


def test_a_device_that_is_released_says_goodbye_and_ends(gateway):
    (farewell,) = gateway.say(Release(reason="the run is finished"))
    assert isinstance(farewell, Goodbye)
    assert farewell.reason == "the run is finished"
    assert gateway.seat.shell is None
