"""Links in memory: a broker for the shells of one process, which carries payloads along a timeline."""

from functools import partial

from aggregator.simulation.timeline import Timeline
from device_runtime.surroundings import Arrived, LinkDown, LinkUp, Post, Station
from device_runtime.wire.limits import ENVELOPE_BYTES_MAX


class MemoryBroker:
    """Takes every payload to all who listen to its topic, `delay_s` later. Each client is one link at a time."""

    def __init__(self, timeline: Timeline, delay_s: float = 0.0) -> None:
        self.timeline = timeline
        self._delay_s = delay_s
        self._links: dict[str, MemoryLink] = {}
        self._topics: dict[str, set[str]] = {}
        self._filters: dict[str, set[str]] = {}  # the subscriptions with a wildcard

    def open_link(self, station: Station, post: Post) -> "MemoryLink":
        """A link for a shell, not yet connected."""
        return MemoryLink(self, station, post)

    def join(self, link: "MemoryLink") -> None:
        """The client listens from now on, on this link."""
        client = link.station.client_id
        self._links[client] = link
        for topic in link.station.subscriptions:
            table = self._filters if "+" in topic or "#" in topic else self._topics
            table.setdefault(topic, set()).add(client)

    def leave(self, link: "MemoryLink", *, in_good_order: bool) -> None:
        """The link is closed; one that only broke leaves its last will."""
        if not self.has(link):
            return
        client = link.station.client_id
        del self._links[client]
        if link.station.will is not None and not in_good_order:
            self.publish(client, *link.station.will)

    def has(self, link: "MemoryLink") -> bool:
        """Whether the link is connected."""
        return self._links.get(link.station.client_id) is link

    def publish(self, sender: str, topic: str, payload: bytes) -> None:
        """Send a payload on its way to everyone who listens now."""
        listening = set(self._topics.get(topic, ()))
        for pattern, clients in self._filters.items():
            if matches(pattern, topic):
                listening |= clients
        for client in sorted(listening & self._links.keys()):
            self.carry(sender, client, Arrived(topic, payload))

    def carry(self, sender: str, receiver: str, arrived: Arrived) -> None:
        """One payload on its way from one client to another. A broker with faults does otherwise."""
        self.timeline.after(self._delay_s, partial(self.deliver, receiver, arrived))

    def deliver(self, receiver: str, arrived: Arrived) -> None:
        """Hand a payload over, if the receiver is connected."""
        link = self._links.get(receiver)
        if link is not None:
            link.deliver(arrived)


class MemoryLink:
    """One client of a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, station: Station, post: Post) -> None:
        self.station = station
        self.bytes_published = 0
        self.bytes_received = 0
        self._broker = broker
        self._post = post

    def connect(self) -> None:
        """Join the broker; again after the link was `broken`."""
        self._broker.join(self)
        self._post(LinkUp())

    def publish(self, topic: str, payload: bytes) -> None:
        """Hand over one payload; a link that is down loses it."""
        assert len(payload) <= ENVELOPE_BYTES_MAX, "an envelope is built within its limit"
        self.bytes_published += len(payload)
        if self._broker.has(self):
            self._broker.publish(self.station.client_id, topic, payload)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Nothing waits here: a payload published is with the broker."""

    def close(self) -> None:
        """Leave in good order."""
        self._broker.leave(self, in_good_order=True)

    def broken(self, reason: str) -> None:
        """The connection breaks, and the shell is told."""
        self._broker.leave(self, in_good_order=False)
        self._post(LinkDown(reason))

    def dead(self) -> None:
        """The process at this end dies: nobody is left to be told but the broker."""
        self._broker.leave(self, in_good_order=False)

    def deliver(self, arrived: Arrived) -> None:
        """What the broker brings."""
        self.bytes_received += len(arrived.payload)
        self._post(arrived)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic falls under a subscription, by MQTT's wildcards.

    >>> matches("site/d/+/up", "site/d/pi-1/up"), matches("site/#", "site/d/pi-1/up"), matches("+", "site/d")
    (True, True, False)
    """
    wanted, given = pattern.split("/"), topic.split("/")
    for level, word in enumerate(wanted):
        if word == "#":
            return True
        if level >= len(given) or word not in ("+", given[level]):
            return False
    return len(wanted) == len(given)
