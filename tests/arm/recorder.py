"""Everything that passes over a broker, read by a third party."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import paho.mqtt.client as mqtt

from device_runtime.wire.envelope import decode_message
from device_runtime.wire.limits import BLOB_BYTES_MAX
from device_runtime.wire.messages import Chunk, Message
from device_runtime.wire.topics import down_topic
from device_runtime.wire.transfer import Download, accept, assemble

M = TypeVar("M", bound=Message)


@dataclass
class Recorder:
    """The messages of a site, in the order in which the broker gave them, with the bytes they took."""

    seen: list[tuple[str, Message, int]] = field(default_factory=list)

    def all(self, kind: type[M]) -> list[M]:
        """The messages of a kind so far."""
        return [message for _, message, _ in list(self.seen) if isinstance(message, kind)]

    def blob(self, sha: str) -> bytes:
        """A blob that has passed, put together from its chunks and checked against its name."""
        download = Download(sha=sha, size_bytes_max=BLOB_BYTES_MAX)
        for chunk in self.all(Chunk):
            if chunk.sha == sha:
                download = accept(download, chunk)
        return assemble(download)

    def bytes_to(self, site: str, device: str) -> int:
        """Payload bytes that were sent to a device alone."""
        return sum(size for topic, _, size in list(self.seen) if topic == down_topic(site, device))


@contextmanager
def recorder(host: str, port: int, site: str) -> Iterator[Recorder]:
    """A recorder that is subscribed when the block begins."""
    made, ready = Recorder(), threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="recorder")

    def record(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        decoded = decode_message(message.payload, allow_unsigned=True)
        made.seen.append((message.topic, decoded, len(message.payload)))

    client.on_message = record
    client.on_subscribe = lambda *_: ready.set()
    client.connect(host, port)
    client.subscribe(f"espalier/1/{site}/#", qos=1)
    client.loop_start()
    try:
        assert ready.wait(10), "the broker does not confirm the recorder's subscription"
        yield made
    finally:
        client.disconnect()
        client.loop_stop()
