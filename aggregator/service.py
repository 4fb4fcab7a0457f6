"""The aggregator's shell: it feeds the machines of rounds and profiles with events and has their commands done."""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from aggregator import run_events
from aggregator.core import profiles, rounds
from aggregator.core import round_events as events
from aggregator.core.profiles import ProfileState
from aggregator.core.round_state import SECOND_NS
from aggregator.correspondence import Correspondence
from aggregator.federation import Federation
from aggregator.plain_text import plain
from aggregator.profiles.kept import KeptProfiles
from aggregator.round_work import Aggregated, RoundWork
from aggregator.run_events import Listener, RunEvent
from aggregator.run_folder import remember_settings
from aggregator.settings import Settings
from aggregator.witness import open_ledger
from device_runtime.surroundings import Arrived, Crashed, Inbox, LinkDown, LinkUp, Station, Surroundings
from device_runtime.wire.envelope import decode_message
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.messages import Hello, RollCall
from device_runtime.wire.topics import device_of, up_filter

TICK_S = 0.25
TRAFFIC_FLUSH_S = 5.0
TURN_EVENTS_MAX = 256
"""So many that wait share one wait for the disk; the first of them is answered after the last."""
CLOSING_S_MAX = 3.0
"""So long a stopped aggregator waits for a round that closes, which the next start would have to close again."""
log = logging.getLogger("espalier.aggregator")


class Aggregator:
    """One aggregator: link, ledger, rounds and profiles, put together. `listeners` hear all that happens.

    `run` serves a process of its own. Whoever drives it beside others calls `begin`, gives every event of `inbox` a
    `turn`, and a turn without an event now and then, until it is `done`; then `end`.
    """

    def __init__(self, settings: Settings, surroundings: Surroundings, listeners: Iterable[Listener] = ()) -> None:
        self.inbox = Inbox()
        self._settings = settings
        self._clock, self._worker = surroundings.clock, surroundings.worker
        self._listeners = tuple(listeners)
        self._folder, site = Path(settings.run.folder), settings.link.site
        # What can be wrong with link, model or data is found before the run folder is touched.
        self._link = surroundings.open_link(Station(f"{site}-aggregator", (up_filter(site),)), self.inbox.put)
        federation = Federation(settings, self._folder)
        self._ledger = open_ledger(self._folder)
        remember_settings(self._ledger, self._folder, settings)
        self._kept = KeptProfiles(self._folder)
        self._profiles = ProfileState(settled={device: facts.sha for device, facts in self._kept.facts.items()})
        self._devices = Correspondence(self._link, site, federation.blobs)
        self._work = RoundWork(
            settings, federation, self._ledger, self._kept, self._clock, self._tell, self._devices.take_traffic
        )
        self._state = self._work.resume()
        self._tick_due_ns = 0
        self._flush_due_ns = 0
        self._finished_ns: int | None = None
        self._stop_by_ns: int | None = None

    # --- a life -----------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> bool:
        """Serve until the last round is committed and devices have left, or `stop` is set; True when finished.

        Raises LinkError when no broker answers.
        """
        self.begin()
        try:
            while not self.done and not (stop.is_set() and self._may_stop()):
                self.turn(self.inbox.take(TICK_S))
            return self._finished_ns is not None
        finally:
            self.end()

    def begin(self) -> None:
        """Connect, and take up the run where it stands. Raises LinkError when no broker answers."""
        self._link.connect()
        self._tell(run_events.Started(run=self._work.run_id, round_index=self._state.round_index))
        if self._state.stage == "finished":
            self._finish()

    @property
    def done(self) -> bool:
        """After the last round: every member has left, or there was time enough to."""
        if self._finished_ns is None:
            return False
        leave_ns = self._finished_ns + int(self._settings.run.leave_after_s * SECOND_NS)
        return not self._state.members or self._now_ns() > leave_ns

    def _may_stop(self) -> bool:
        """Whether nothing is worth waiting for."""
        if self._stop_by_ns is None:
            self._stop_by_ns = self._now_ns() + int(CLOSING_S_MAX * SECOND_NS)
        return self._state.stage != "closing" or self._now_ns() > self._stop_by_ns

    def end(self) -> None:
        """Close the link and the ledger; what is not committed is taken up by the next start."""
        self._link.flush()
        self._link.close()
        self._flush_traffic(force=True)
        if self._finished_ns is not None:
            self._work.write_result()  # once more: farewells count as traffic too
        self._ledger.close()

    def _finish(self) -> None:
        """The last round is committed: write what the run leaves, then wait for farewells."""
        self._finished_ns = self._now_ns()
        self._work.write_result()
        self._tell(run_events.Finished(folder=str(self._folder)))

    def _tell(self, event: RunEvent) -> None:
        for listen in self._listeners:
            listen(event)

    def _now_ns(self) -> int:
        return self._clock.monotonic_ns()

    # --- events -----------------------------------------------------------------------------------------------

    def turn(self, event: object | None) -> None:
        """Take in an event, None where there is none, and what waits behind it; let time pass where a tick is due.

        All that comes of it is on disk before anything of it is said.
        """
        with self._work.durable():
            taken = 0
            while event is not None:
                self._handle(event)
                taken += 1
                event = self.inbox.take() if taken < TURN_EVENTS_MAX else None
            now_ns = self._now_ns()
            if now_ns >= self._tick_due_ns:  # also while events never cease
                self._tick_due_ns = now_ns + int(TICK_S * SECOND_NS)
                self._drive(events.Tick())
                self._pull(profiles.tick(self._profiles, now_ns))
            self._flush_traffic()
        self._devices.publish()

    def _handle(self, event: object) -> None:
        match event:
            case LinkUp():
                self._devices.broadcast(RollCall(session=secrets.token_hex(8)))
            case LinkDown(reason):
                log.warning("link lost (%s); reconnecting", reason)
            case Arrived(topic, payload):
                self._arrived(topic, payload)
            case Aggregated():
                self._drive(self._work.commit(event))
                if self._state.stage == "finished":
                    self._finish()
            case Crashed(error):
                raise error
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _arrived(self, topic: str, payload: bytes) -> None:
        try:
            device = device_of(topic)
            self._devices.received(device, payload)
            message = decode_message(payload, allow_unsigned=self._settings.link.allow_unsigned)
        except RemoteWireError as error:
            log.warning("ignored a message: %s", plain(str(error)))
            return
        self._drive(events.Heard(device, message))
        taken_in = not isinstance(message, Hello) or device in self._state.members
        if taken_in and self._finished_ns is None:
            self._pull(profiles.heard(self._profiles, device, message, self._now_ns()))

    def _drive(self, event: events.Event) -> None:
        """Give the round machine an event, and the answers to what it asks for, until it asks for nothing more."""
        waiting = deque([event])
        while waiting:
            self._state, commands = rounds.step(self._state, waiting.popleft(), self._now_ns())
            for command in commands:
                answer = self._carry_out(command)
                if answer is not None:
                    waiting.append(answer)

    def _pull(self, step: profiles.Step) -> None:
        """Carry out what the pulling of profiles asks for."""
        self._profiles, commands = step
        for command in commands:
            match command:
                case profiles.KeepProfile(device, sha):
                    self._keep_profile(device, sha)
                case _:
                    self._carry_out(command)

    # --- commands ---------------------------------------------------------------------------------------------

    def _carry_out(self, command: events.Command) -> events.Event | None:
        match command:
            case events.Send(device, message):
                self._devices.send(device, message)
            case events.Broadcast(message):
                self._devices.broadcast(message)
            case events.Serve(device, get):
                self._devices.serve(device, get)
            case events.WriteChunk(device, chunk):
                self._work.arriving.write(device, chunk)
            case events.DropChunks(device, sha):
                self._work.arriving.drop(device, sha)
            case events.OpenRound():
                return self._work.open(command, self._state)
            case events.CheckUpdate(offer):
                return self._work.check(offer, self._state)
            case events.RejectUpdate(offer, reason):
                return self._work.judge(offer, "rejected", reason, self._state)
            case events.CloseRound():
                self._worker.start(self._work.closing(self._state), self.inbox.put)
            case _:
                self._book(command)
        return None

    def _book(self, command: events.Bookkeeping) -> None:
        match command:
            case events.Enrol(hello, returns):
                self._ledger.enrol(hello)
                here = f"{len(self._state.members)} of {self._settings.rounds.devices_min}"
                happened = run_events.DeviceReturned if returns else run_events.DeviceJoined
                self._tell(happened(device=hello.device, sample_count=hello.sample_count, members=here))
            case events.Depart(device, reason):
                self._ledger.depart(device, reason)
                self._tell(run_events.DeviceLeft(device=device, reason=reason))
            case events.RecordRefusal(refusal):
                self._ledger.refuse(refusal)
                self._tell(run_events.Refused(device=refusal.device, reason=refusal.reason))
            case events.Note(text):
                self._tell(run_events.Noted(text=text))

    def _keep_profile(self, device: str, sha: str) -> None:
        """A profile that is none, or that the disk does not take, is told of and costs no round."""
        try:
            data = self._work.arriving.take(device, sha)
            if data is None:
                raise UsageError(f"blob {sha[:12]} does not match its SHA-256")
            facts = self._kept.keep(device, data)
        except UsageError as error:
            self._tell(run_events.Noted(text=f"the profile of {device} is ignored: {str(error)[:300]}"))
            return
        self._tell(run_events.ProfileKept(device=device, verdict=facts.verdict, bytes=len(data)))

    def _flush_traffic(self, *, force: bool = False) -> None:
        """Bytes reach the ledger with every update; this is for quiet times."""
        now_ns = self._now_ns()
        if force or now_ns >= self._flush_due_ns:
            self._flush_due_ns = now_ns + int(TRAFFIC_FLUSH_S * SECOND_NS)
            traffic = self._devices.take_traffic()
            if traffic:
                self._ledger.add_traffic(min(self._state.round_index, self._settings.rounds.count), traffic)
