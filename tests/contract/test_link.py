"""What `MqttLink` promises, whichever broker stands behind it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from aggregator.demo.broker import Broker, free_port, start_broker
from device_runtime.link import MqttLink
from device_runtime.surroundings import Arrived, Inbox, LinkDown, LinkUp, Station
from device_runtime.wire.errors import LinkError
from device_runtime.wire.limits import ENVELOPE_BYTES_MAX
from device_runtime.wire.settings import LinkSettings

pytestmark = pytest.mark.e2e

TIMEOUT_S = 10.0
Make = Callable[..., tuple[MqttLink, Inbox]]


@pytest.fixture
def make(broker: Broker) -> Iterator[Make]:
    """Makes connected links by client id and subscriptions; all are closed at the end."""
    made: list[MqttLink] = []

    def connected(client_id: str, *subscriptions: str) -> tuple[MqttLink, Inbox]:
        inbox = Inbox()
        settings = LinkSettings(host=broker.host, port=broker.port, connect_timeout_s=TIMEOUT_S)
        link = MqttLink(settings, Station(client_id, subscriptions), inbox.put)
        made.append(link)
        link.connect()
        assert inbox.take(TIMEOUT_S) == LinkUp()
        return link, inbox

    yield connected
    for link in made:
        link.close()


def _next(inbox: Inbox) -> object:
    return inbox.take(TIMEOUT_S)


def _wait_for(inbox: Inbox, kind: type) -> object:
    deadline = time.monotonic() + 3 * TIMEOUT_S
    while time.monotonic() < deadline:
        event = inbox.take(0.2)
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


def test_what_is_published_is_delivered_whole(make: Make) -> None:
    _, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    payloads = [b"", b"\x00\xff" * 100, os.urandom(ENVELOPE_BYTES_MAX)]
    for number, payload in enumerate(payloads):
        sender.publish(f"t/{number}", payload)
    assert [_next(inbox) for _ in payloads] == [Arrived(f"t/{n}", p) for n, p in enumerate(payloads)]


def test_order_is_kept_on_a_topic(make: Make) -> None:
    _, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    for number in range(300):
        sender.publish("t/order", str(number).encode())
    assert [_next(inbox) for _ in range(300)] == [Arrived("t/order", str(n).encode()) for n in range(300)]


def test_only_what_was_subscribed_to_arrives(make: Make) -> None:
    _, inbox = make("receiver", "t/+/up")
    sender, _ = make("sender", "unused")
    for topic in ("t/a/down", "t/a/up/deeper", "t/b/up"):
        sender.publish(topic, b"x")
    assert _next(inbox) == Arrived("t/b/up", b"x")
    assert inbox.take() is None


def test_flush_before_close_loses_nothing(make: Make) -> None:
    _, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    for number in range(300):
        sender.publish("t/last", str(number).encode())
    sender.flush(TIMEOUT_S)
    sender.close()
    assert [_next(inbox) for _ in range(300)][-1] == Arrived("t/last", b"299")


def test_bytes_are_counted_on_both_sides(make: Make) -> None:
    receiver, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    sender.publish("t/a", b"12345")
    _next(inbox)
    assert (sender.bytes_published, receiver.bytes_received) == (5, 5)


def test_retained_messages_are_ignored(make: Make, broker: Broker) -> None:
    stranger = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="stranger")
    stranger.connect(broker.host, broker.port)
    stranger.loop_start()
    stranger.publish("t/kept", b"old", qos=1, retain=True).wait_for_publish(TIMEOUT_S)
    _, inbox = make("receiver", "t/#")
    stranger.publish("t/now", b"new", qos=1).wait_for_publish(TIMEOUT_S)
    stranger.disconnect()
    stranger.loop_stop()
    assert _next(inbox) == Arrived("t/now", b"new")


def test_too_large_a_payload_is_refused_before_it_is_sent(make: Make) -> None:
    _, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    with pytest.raises(AssertionError, match="within its limit"):
        sender.publish("t/big", bytes(ENVELOPE_BYTES_MAX + 1))
    sender.publish("t/after", b"x")
    assert _next(inbox) == Arrived("t/after", b"x")


def test_small_messages_are_not_held_back_by_the_sender(make: Make) -> None:
    link, _ = make("sender", "unused")
    sock = link._client.socket()
    assert sock is not None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


_MORTAL = """
import sys, time
from device_runtime.link import MqttLink
from device_runtime.surroundings import Inbox, Station
from device_runtime.wire.settings import LinkSettings
station = Station("mortal", ("unused",), ("t/will", b"gone"))
link = MqttLink(LinkSettings(port=int(sys.argv[1])), station, Inbox().put)
link.connect()
print("up", flush=True)
sys.stdin.read()
link.close()
"""


@pytest.fixture
def mortal(broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a last will, connected; it closes its link when its input ends."""
    line = [sys.executable, "-c", _MORTAL, str(broker.port)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_last_will_is_told_when_the_process_dies(make: Make, mortal: "subprocess.Popen[bytes]") -> None:
    _, inbox = make("receiver", "t/#")
    assert mortal.stdout is not None
    assert mortal.stdout.readline() == b"up\n"
    mortal.send_signal(signal.SIGKILL)
    assert _next(inbox) == Arrived("t/will", b"gone")


def test_last_will_is_not_told_after_a_close(make: Make, mortal: "subprocess.Popen[bytes]") -> None:
    _, inbox = make("receiver", "t/#")
    sender, _ = make("sender", "unused")
    assert mortal.stdout is not None
    assert mortal.stdout.readline() == b"up\n"
    mortal.communicate(timeout=TIMEOUT_S)
    sender.publish("t/after", b"x")
    assert _next(inbox) == Arrived("t/after", b"x")


def test_link_comes_back_by_itself_when_the_broker_restarts(make: Make, broker: Broker, tmp_path: Path) -> None:
    _, inbox = make("receiver", "t/#")
    sender, outbox = make("sender", "unused")
    assert broker.process is not None
    broker.process.kill()
    broker.process.wait()
    assert isinstance(_next(inbox), LinkDown)
    again = start_broker(broker.kind, tmp_path / "broker", port=broker.port)
    try:
        _wait_for(inbox, LinkUp)
        _wait_for(outbox, LinkUp)
        sender.publish("t/again", b"x")
        assert _wait_for(inbox, Arrived) == Arrived("t/again", b"x")
    finally:
        again.stop()


def test_no_broker_is_one_sentence_naming_the_place() -> None:
    port = free_port()
    settings = LinkSettings(port=port, connect_timeout_s=0.1)
    link = MqttLink(settings, Station("lonely", ("t",)), Inbox().put)
    with pytest.raises(LinkError, match=f"no broker answers at 127.0.0.1:{port}"):
        link.connect()


def test_a_server_that_is_no_broker_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = LinkSettings(port=server.getsockname()[1], connect_timeout_s=0.1)
        link = MqttLink(settings, Station("lonely", ("t",)), Inbox().put)
        with pytest.raises(LinkError, match="is it an MQTT broker"):
            link.connect()
