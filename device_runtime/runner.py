"""The device's shell: it feeds the agent with events and carries out its commands, turn by turn."""

import logging
import secrets
import threading
from functools import partial
from pathlib import Path

from device_runtime import agent
from device_runtime import agent_events as events
from device_runtime.agent import AgentState
from device_runtime.config import DeviceSettings
from device_runtime.data import load_local_data
from device_runtime.engines import offered_engines
from device_runtime.heart import Heart
from device_runtime.metering.phases import SpanTimer
from device_runtime.offered_profile import offered_profile
from device_runtime.personal_file import PersonalFiles
from device_runtime.spool import Spool
from device_runtime.store import BlobStore
from device_runtime.surroundings import Arrived, Crashed, Inbox, LinkDown, LinkUp, Station, Surroundings
from device_runtime.threads import training_threads
from device_runtime.training import Traffic
from device_runtime.wire.envelope import decode_message, encode_message, unreadable_assignment
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import Assignment, Get, Gone, Goodbye, Hello, Message, Offer
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.topics import all_topic, down_topic, up_topic
from device_runtime.wire.version import VERSION
from device_runtime.workshop import Finished, Workshop

TICK_S = 0.25
log = logging.getLogger("espalier.device")


class Device:
    """One device: link, store, workshop and agent, put together.

    `run` serves a process of its own. Whoever drives many in one process calls `begin`, gives every event of `inbox`
    a `turn`, and a turn without an event now and then, until it is `done`; then `end`.
    """

    def __init__(self, settings: DeviceSettings, surroundings: Surroundings) -> None:
        folder = Path(settings.folder)
        self.inbox = Inbox()
        self._settings = settings
        self._clock, self._worker = surroundings.clock, surroundings.worker
        self._blobs = BlobStore(folder / "blobs")
        personal = PersonalFiles(folder, settings.personal)
        personal.check()
        self._spool = Spool(folder, self._blobs, personal, settings.personal)
        data = load_local_data(settings.data.source, settings.data.x, settings.data.y)
        self._workshop = Workshop(folder, self._blobs, data, personal, threads=training_threads(settings.threads))
        self._download, self._upload = SpanTimer(self._clock), SpanTimer(self._clock)
        self._profile = offered_profile(settings, self._blobs)
        hello = Hello(
            device=settings.name,
            session=secrets.token_hex(8),
            engines=offered_engines(settings.engine),  # a device that cannot train says so before it joins
            sample_count=len(data),
            version=VERSION,
            profile=self._profile,
        )
        self._state = AgentState(hello=hello, leave_when_released=settings.leave_when_released)
        self._leaving: str | None = None
        self._tick_due_ns = 0
        self._up = up_topic(settings.link.site, settings.name)
        self._link = surroundings.open_link(_station(settings, hello), self.inbox.put)

    def run(self, stop: threading.Event) -> str:
        """Serve until released or `stop` is set; returns why it ended. Raises LinkError when no broker answers."""
        heart = Heart()
        self.begin()
        try:
            while not self.done and not stop.is_set():
                heart.beat(training=self._state.activity == "training", step_count=self._workshop.step_count)
                self.turn(self.inbox.take(TICK_S))
            return self.end()
        finally:
            self._link.close()

    def begin(self) -> None:
        """Connect. Raises LinkError when no broker answers."""
        self._link.connect()
        log.info("connected to %s:%d", self._settings.link.host, self._settings.link.port)

    @property
    def done(self) -> bool:
        """Whether the device was released."""
        return self._leaving is not None

    def end(self) -> str:
        """Say goodbye and close the link; returns why."""
        reason = self._leaving or "stopped"
        hello = self._state.hello
        self._publish(Goodbye(device=hello.device, session=hello.session, reason=reason))
        self._link.flush()
        self._link.close()
        return reason

    # --- events -----------------------------------------------------------------------------------------------

    def turn(self, event: object | None) -> None:
        """Take in one event, None where there is none, and let time pass where a tick is due."""
        if event is not None:
            self._handle(event)
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._tick_due_ns:  # also while events never cease
            self._tick_due_ns = now_ns + int(TICK_S * agent.SECOND_NS)
            self._step(events.Tick())

    def _handle(self, event: object) -> None:
        match event:
            case LinkUp():
                self._step(events.Connected())
            case LinkDown(reason):
                log.warning("link lost (%s); reconnecting", reason)
                self._step(events.Disconnected())
            case Arrived(_, payload):
                self._arrived(payload)
            case Finished():
                self._finished(event)
            case Crashed(error):
                raise error
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _arrived(self, payload: bytes) -> None:
        try:
            message = decode_message(payload, allow_unsigned=self._settings.link.allow_unsigned)
        except RemoteWireError as error:
            self._not_understood(payload, str(error))
            return
        if not isinstance(message, Assignment):
            self._step(events.Received(message))
            return
        wanted = (message.graph_sha, message.params_sha, *message.support_shas)
        lacking = tuple(sha for sha in dict.fromkeys(wanted) if self._blobs.get(sha) is None)
        self._step(events.Assigned(message, lacking, self._spooled(message.id)))

    def _spooled(self, assignment_id: str) -> Offer | None:
        """The offer left by this assignment, None when it was made of other data than there is now."""
        offer = self._spool.of(assignment_id)
        return offer if offer is not None and offer.sample_count == self._state.hello.sample_count else None

    def _not_understood(self, payload: bytes, reason: str) -> None:
        """Of all that cannot be read, an assignment is answered: the round would wait for it to the deadline."""
        settings = self._settings
        assignment_id = unreadable_assignment(payload, settings.name, allow_unsigned=settings.link.allow_unsigned)
        if assignment_id is None:
            log.warning("ignored a message: %s", reason)
            return
        log.error("assignment %s cannot be read: %s", assignment_id, reason)
        self._step(events.Unreadable(assignment_id, f"version {VERSION} cannot read it: {reason}"))

    def _finished(self, event: Finished) -> None:
        assignment, result = event.assignment, event.result
        if result is None:
            log.error("assignment %s: %s", assignment.id, event.reason)
            self._step(events.TrainingFailed(assignment.id, event.reason))
            return
        offer = Offer(
            assignment_id=assignment.id,
            device=assignment.device,
            update_sha=sha256_hex(result.update),
            size_bytes=len(result.update),
            sample_count=result.sample_count,
            measurement=result.measurement,
            kept_back=result.personal.names,
            extras=result.extras,
        )
        self._step(events.Trained(offer, result.update))

    def _step(self, event: events.Event) -> None:
        before = self._state.activity
        self._state, commands = agent.step(self._state, event, self._clock.monotonic_ns())
        self._time_spans(before, self._state.activity)
        for command in commands:
            self._carry_out(command)

    def _time_spans(self, before: agent.Activity, after: agent.Activity) -> None:
        if before == after:
            return
        if after == "fetching":
            self._download.begin()
        if before == "fetching" or after == "training":
            self._download.end()
        if after == "offering":
            self._upload.begin()
        if before == "offering":
            self._upload.end()
        log.debug("%s -> %s", before, after)

    # --- commands ---------------------------------------------------------------------------------------------

    def _carry_out(self, command: events.Command) -> None:
        match command:
            case events.Publish(message):
                self._publish(message)
            case events.StoreBlob(_, data):
                self._blobs.put(data)
            case events.Train(assignment):
                self._worker.start(partial(self._workshop.carry_out, assignment, self._traffic()), self.inbox.put)
            case events.SpoolUpdate(offer, update):
                self._spool.keep(offer, update)
            case events.Serve(get):
                self._serve(get)
            case events.Unspool(receipt):
                self._unspool(receipt.assignment_id)
                level = logging.WARNING if receipt.verdict == "rejected" else logging.INFO
                log.log(level, "update for %s: %s %s", receipt.assignment_id, receipt.verdict, receipt.reason)
            case events.Warn(text):
                log.warning("%s", text)
            case events.Leave(reason):
                self._leaving = reason

    def _publish(self, message: Message) -> None:
        self._link.publish(self._up, encode_message(message))

    def _traffic(self) -> Traffic:
        return Traffic(self._link.bytes_received, self._link.bytes_published, self._download.phase, self._upload.phase)

    def _serve(self, get: Get) -> None:
        """From the spool on disk, not from the agent's memory: the offer may be one of an earlier life."""
        offer = self._spool.read()
        open_shas = {offer.update_sha} if offer is not None else set()
        open_shas |= {self._profile.sha} if self._profile is not None else set()
        for index in get.indices if get.sha in open_shas else ():
            chunk = self._blobs.chunk(get.sha, index)
            if chunk is not None:
                self._publish(chunk)

    def _unspool(self, assignment_id: str) -> None:
        """Forget a receipted update and every blob but the profile and what the present assignment needs."""
        self._spool.forget(assignment_id)
        current = self._state.assignment
        if current is not None:
            keep = {current.graph_sha, current.params_sha, *current.support_shas}
            offer = self._state.offer
            keep |= {offer.update_sha} if offer is not None else set()
            keep |= {self._profile.sha} if self._profile is not None else set()
            self._blobs.keep_only(keep)


def _station(settings: DeviceSettings, hello: Hello) -> Station:
    """Who the device is to the broker; its last will is of this session."""
    site, name = settings.link.site, settings.name
    will = encode_message(Gone(device=name, session=hello.session))
    return Station(f"{site}-{name}", (down_topic(site, name), all_topic(site)), (up_topic(site, name), will))
