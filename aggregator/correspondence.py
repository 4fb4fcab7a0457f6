"""What goes to devices and comes from them: messages, chunks from the store, and a count of every payload byte."""

from aggregator.ledger import Traffic
from device_runtime.store import BlobStore
from device_runtime.surroundings import Link
from device_runtime.wire.envelope import encode_message
from device_runtime.wire.limits import WINDOW_CHUNKS
from device_runtime.wire.messages import Get, Message
from device_runtime.wire.topics import all_topic, down_topic


class Correspondence:
    """The aggregator's side of the site's topics. What is said goes out with `publish`, once it rests on what is on
    disk."""

    def __init__(self, link: Link, site: str, blobs: BlobStore) -> None:
        self._link = link
        self._site = site
        self._blobs = blobs
        self._traffic: Traffic = {}
        self._said: list[tuple[str, bytes]] = []
        self._wanted: dict[str, dict[tuple[str, int], None]] = {}  # by device, chunks in the order of asking

    def send(self, device: str, message: Message) -> None:
        """A message to one device."""
        payload = encode_message(message)
        self._count(device, down=len(payload))
        self._said.append((down_topic(self._site, device), payload))

    def broadcast(self, message: Message) -> None:
        """A message to every device; its bytes are nobody's."""
        self._said.append((all_topic(self._site), encode_message(message)))

    def serve(self, device: str, get: Get) -> None:
        """The chunks that a device asks for: each once, and no more at a time than its window has; who keeps to that
        asks again for what it lacks."""
        wanted = self._wanted.setdefault(device, {})
        for index in get.indices:
            if len(wanted) < WINDOW_CHUNKS:
                wanted[get.sha, index] = None

    def publish(self) -> None:
        """Hand over what was said, then the chunks that there are."""
        self._hand_over()
        wanted, self._wanted = self._wanted, {}
        for device, places in wanted.items():
            for sha, index in places:
                chunk = self._blobs.chunk(sha, index)
                if chunk is not None:
                    self.send(device, chunk)
            self._hand_over()  # one device after the other, so as not to hold the chunks of all

    def _hand_over(self) -> None:
        said, self._said = self._said, []
        for topic, payload in said:
            self._link.publish(topic, payload)

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
