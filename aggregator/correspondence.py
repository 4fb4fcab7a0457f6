"""What goes to devices and comes from them: messages, chunks from the store, and a count of every payload byte."""

from aggregator.ledger import Traffic
from device_runtime.store import BlobStore
from device_runtime.surroundings import Link
from device_runtime.wire.envelope import encode_message
from device_runtime.wire.messages import Get, Message
from device_runtime.wire.topics import all_topic, down_topic


class Correspondence:
    """The aggregator's side of the site's topics."""

    def __init__(self, link: Link, site: str, blobs: BlobStore) -> None:
        self._link = link
        self._site = site
        self._blobs = blobs
        self._traffic: Traffic = {}

    def send(self, device: str, message: Message) -> None:
        """A message to one device."""
        payload = encode_message(message)
        self._count(device, down=len(payload))
        self._link.publish(down_topic(self._site, device), payload)

    def broadcast(self, message: Message) -> None:
        """A message to every device; its bytes are nobody's."""
        self._link.publish(all_topic(self._site), encode_message(message))

    def serve(self, device: str, get: Get) -> None:
        """The chunks that a device asks for, those that there are."""
        for index in get.indices:
            chunk = self._blobs.chunk(get.sha, index)
            if chunk is not None:
                self.send(device, chunk)

    def received(self, device: str, payload: bytes) -> None:
        """Something came from a device."""
        self._count(device, up=len(payload))

    def _count(self, device: str, *, up: int = 0, down: int = 0) -> None:
        before = self._traffic.get(device, (0, 0))
        self._traffic[device] = (before[0] + up, before[1] + down)

    def take_traffic(self) -> Traffic:
        """The bytes counted since this was last called."""
        taken, self._traffic = self._traffic, {}
        return taken
