"""Links in memory keep what `MqttLink` promises (tests/contract), on a timeline that nobody waits for."""

import pytest

from aggregator.simulation.memory_link import MemoryBroker, MemoryLink
from aggregator.simulation.timeline import Timeline
from device_runtime.surroundings import Arrived, LinkDown, LinkUp, Station
from device_runtime.wire.limits import ENVELOPE_BYTES_MAX


class Site:
    """A broker, and what every client of it was told."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.timeline = Timeline()
        self.broker = MemoryBroker(self.timeline, delay_s)
        self.told: dict[str, list[object]] = {}

    def link(self, client: str, *subscriptions: str, will: tuple[str, bytes] | None = None) -> MemoryLink:
        heard = self.told.setdefault(client, [])
        link = self.broker.open_link(Station(client, subscriptions, will), heard.append)
        link.connect()
        return link

    def pass_by(self, seconds: float = 10.0) -> None:
        self.timeline.run(lambda: False, seconds)


@pytest.fixture
def site() -> Site:
    return Site()


def test_what_is_published_reaches_all_who_listen_and_nobody_else(site):
    sender = site.link("sender")
    for client, topic in {"exact": "t/a/up", "one level": "t/+/up", "all": "t/#", "other": "t/b/up"}.items():
        site.link(client, topic)
    sender.publish("t/a/up", b"x")
    site.pass_by()
    heard = {client for client, events in site.told.items() if Arrived("t/a/up", b"x") in events}
    assert heard == {"exact", "one level", "all"}


def test_order_is_kept_and_a_payload_takes_its_time():
    site = Site(delay_s=2.0)
    sender = site.link("sender")
    site.link("receiver", "t")
    for number in range(3):
        sender.publish("t", bytes([number]))
    site.pass_by(1.9)
    assert site.told["receiver"] == [LinkUp()]
    site.pass_by(0.1)
    assert site.told["receiver"] == [LinkUp(), *(Arrived("t", bytes([n])) for n in range(3))]


def test_whoever_listens_twice_hears_once(site):
    sender = site.link("sender")
    site.link("receiver", "t/+", "t/a")
    sender.publish("t/a", b"x")
    site.pass_by()
    assert site.told["receiver"] == [LinkUp(), Arrived("t/a", b"x")]


def test_bytes_are_counted_on_both_sides(site):
    sender, receiver = site.link("sender"), site.link("receiver", "t")
    sender.publish("t", b"12345")
    site.pass_by()
    assert (sender.bytes_published, receiver.bytes_received) == (5, 5)


def test_too_large_a_payload_is_refused_before_it_is_sent(site):
    with pytest.raises(AssertionError, match="within its limit"):
        site.link("sender").publish("t", bytes(ENVELOPE_BYTES_MAX + 1))


@pytest.mark.parametrize(("end", "wills"), [("close", []), ("dead", [b"gone"]), ("broken", [b"gone"])])
def test_a_last_will_is_told_of_a_link_that_was_not_closed(site, end, wills):
    site.link("watcher", "w")
    link = site.link("mortal", "t", will=("w", b"gone"))
    getattr(link, end)(*(["cut off"] if end == "broken" else []))
    site.pass_by()
    assert [e.payload for e in site.told["watcher"] if isinstance(e, Arrived)] == wills


def test_what_is_under_way_to_a_link_that_ends_is_lost():
    site = Site(delay_s=1.0)
    sender, receiver = site.link("sender"), site.link("receiver", "t")
    sender.publish("t", b"x")
    receiver.close()
    site.pass_by()
    assert site.told["receiver"] == [LinkUp()]


def test_a_broken_link_neither_sends_nor_hears_until_it_is_connected_again(site):
    sender, receiver = site.link("sender"), site.link("receiver", "t")
    receiver.broken("cut off")
    sender.publish("t", b"lost")
    site.link("listener", "u")
    receiver.publish("u", b"lost")
    site.pass_by()
    receiver.connect()
    sender.publish("t", b"heard")
    receiver.publish("u", b"heard")
    site.pass_by()
    assert site.told["receiver"] == [LinkUp(), LinkDown("cut off"), LinkUp(), Arrived("t", b"heard")]
    assert site.told["listener"] == [LinkUp(), Arrived("u", b"heard")]


def test_a_client_that_comes_back_takes_the_place_of_its_old_link(site):
    sender = site.link("sender")
    old = site.link("receiver", "t")
    site.link("receiver", "t")
    old.close()
    sender.publish("t", b"x")
    site.pass_by()
    assert site.told["receiver"] == [LinkUp(), LinkUp(), Arrived("t", b"x")]
