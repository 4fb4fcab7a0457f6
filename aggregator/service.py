"""The aggregator's shell: one loop that feeds the round machine with events and carries out its commands."""

import logging
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path

from aggregator import run_events
from aggregator.core import profiles, rounds
from aggregator.core import round_events as events
from aggregator.core.method import Present, RunState
from aggregator.core.profiles import ProfileState
from aggregator.core.rounds import SECOND_NS, RoundState
from aggregator.federation import Federation, RoundOutcome
from aggregator.ledger import Ledger, Traffic
from aggregator.member_times import MemberTimes
from aggregator.plain_text import plain
from aggregator.profiles.kept import KeptProfiles
from aggregator.results import UPLOADED_BY_NOBODY, RoundResult, uploaded_by_nobody
from aggregator.run_events import Listener, RunEvent
from aggregator.run_folder import (
    device_rounds,
    new_run_id,
    remember_settings,
    run_result,
    save_model,
    write_result,
)
from aggregator.settings import Settings
from aggregator.state import decode_state, encode_state
from device_runtime.store import ArrivingBlobs
from device_runtime.surroundings import Arrived, Inbox, LinkDown, LinkUp, Station, Surroundings
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.errors import EngineError, RemoteWireError, UsageError
from device_runtime.wire.messages import Assignment, Hello, Message, Offer, Receipt, RollCall, Verdict
from device_runtime.wire.topics import all_topic, device_of, down_topic, up_filter

TICK_S = 0.25
TRAFFIC_FLUSH_S = 5.0
log = logging.getLogger("espalier.aggregator")


class Aggregator:
    """One aggregator: link, ledger, federation and round machine, put together. `listeners` hear all that happens.

    `run` serves a process of its own. Whoever drives it beside others calls `begin`, gives every event of `inbox` a
    `turn`, and a turn without an event now and then, until it is `done`; then `end`.
    """

    def __init__(self, settings: Settings, surroundings: Surroundings, listeners: Iterable[Listener] = ()) -> None:
        self.inbox = Inbox()
        self._clock = surroundings.clock
        self._settings = settings
        self._listeners = tuple(listeners)
        self._folder = Path(settings.run.folder)
        # What can be wrong with link, model or data is found before the run folder is touched.
        site = settings.link.site
        self._link = surroundings.open_link(Station(f"{site}-aggregator", (up_filter(site),)), self.inbox.put)
        self._federation = Federation(settings, self._folder)
        self._ledger = Ledger(self._folder / "ledger.sqlite")
        remember_settings(self._ledger, self._folder, settings)
        self._run_id = new_run_id(self._ledger)
        self._blobs = self._federation.blobs
        self._arriving = ArrivingBlobs(self._folder / "arriving")
        self._kept = KeptProfiles(self._folder)
        self._times = MemberTimes(settings, self._federation)
        self._profiles = ProfileState(settled={device: facts.sha for device, facts in self._kept.facts.items()})
        self._traffic: Traffic = {}
        self._tick_due_ns = 0
        self._flush_due_ns = 0
        self._opened_ns = self._now_ns()
        self._finished_ns: int | None = None
        self._uploaded_by_nobody: list[str] = []
        self._run_state, self._state = self._resume()

    # --- resuming ---------------------------------------------------------------------------------------------

    def _resume(self) -> tuple[RunState, RoundState]:
        """The state after the last committed round, and the round machine as far as the ledger knows it."""
        committed = self._ledger.last_committed()
        count = 0 if committed is None else committed[0]
        if committed is None:
            run_state = self._initial_state()
        else:
            data = self._blobs.get(committed[1])
            if data is None:
                raise UsageError(f"the state of round {count} is missing from {self._folder}; restore it.")
            run_state = decode_state(data)
            log.info("resuming after round %d", count)
        members = [hello for hello, member, _, _ in self._ledger.devices() if member]
        opened = self._ledger.opened_round(count + 1)
        return run_state, rounds.resume(self._settings.round_rules, members, count, opened, self._now_ns())

    def _initial_state(self) -> RunState:
        """The state before round 1, drawn once: a user's model need not give the same values twice."""
        sha = self._ledger.setting("initial_state")
        data = self._blobs.get(sha) if sha else None
        if data is None:
            data = encode_state(self._federation.start())
            self._ledger.set_setting("initial_state", self._blobs.put(data))
        return decode_state(data)

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> bool:
        """Serve until the last round is committed and devices have left, or `stop` is set; True when finished.

        Raises LinkError when no broker answers.
        """
        self.begin()
        try:
            while not stop.is_set() and not self.done:
                self.turn(self.inbox.take(TICK_S))
            return self._finished_ns is not None
        finally:
            self.end()

    def begin(self) -> None:
        """Connect, and take up the run where it stands. Raises LinkError when no broker answers."""
        self._link.connect()
        self._tell(run_events.Started(run=self._run_id, round_index=self._state.round_index))
        if self._state.phase == "finished":
            self._finish()

    def end(self) -> None:
        """Close the link and the ledger; what is not committed is taken up by the next start."""
        self._link.flush()
        self._link.close()
        self._flush_traffic(force=True)
        if self._finished_ns is not None:
            self._write_result()  # once more: farewells count as traffic too
        self._ledger.close()

    @property
    def done(self) -> bool:
        """After the last round: every member has left, or there was time enough to."""
        if self._finished_ns is None:
            return False
        leave_ns = self._finished_ns + int(self._settings.run.leave_after_s * SECOND_NS)
        return not self._state.members or self._now_ns() > leave_ns

    def _tell(self, event: RunEvent) -> None:
        for listen in self._listeners:
            listen(event)

    def _now_ns(self) -> int:
        return self._clock.monotonic_ns()

    def turn(self, event: object | None) -> None:
        """Take in one event, None where there is none, and let time pass where a tick is due."""
        if event is not None:
            self._handle(event)
        now_ns = self._now_ns()
        if now_ns >= self._tick_due_ns:  # also while events never cease
            self._tick_due_ns = now_ns + int(TICK_S * SECOND_NS)
            self._step(events.Tick())
            self._pull(profiles.tick(self._profiles, now_ns))
        self._flush_traffic()

    def _handle(self, event: object) -> None:
        match event:
            case LinkUp():
                session = secrets.token_hex(8)
                self._link.publish(all_topic(self._settings.link.site), encode_message(RollCall(session=session)))
            case LinkDown(reason):
                log.warning("link lost (%s); reconnecting", reason)
            case Arrived(topic, payload):
                self._arrived(topic, payload)
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _arrived(self, topic: str, payload: bytes) -> None:
        try:
            device = device_of(topic)
            self._count(device, up=len(payload))
            message = decode_message(payload, allow_unsigned=self._settings.link.allow_unsigned)
        except RemoteWireError as error:
            log.warning("ignored a message: %s", plain(str(error)))
            return
        self._step(events.Heard(device, message))
        taken_in = not isinstance(message, Hello) or device in self._state.members
        if taken_in and self._finished_ns is None:
            self._pull(profiles.heard(self._profiles, device, message, self._now_ns()))

    def _pull(self, step: profiles.Step) -> None:
        """Carry out what the pulling of profiles asks for."""
        self._profiles, commands = step
        for command in commands:
            match command:
                case profiles.KeepProfile(device, sha):
                    self._keep_profile(device, sha)
                case _:
                    self._carry_out(command)

    def _keep_profile(self, device: str, sha: str) -> None:
        """A profile that is none, or that the disk does not take, is told of and costs no round."""
        try:
            data = self._arriving.take(device, sha)
            if data is None:
                raise UsageError(f"blob {sha[:12]} does not match its SHA-256")
            facts = self._kept.keep(device, data)
        except UsageError as error:
            self._book(events.Note(f"the profile of {device} is ignored: {str(error)[:300]}"))
            return
        self._tell(run_events.ProfileKept(device=device, verdict=facts.verdict, bytes=len(data)))

    def _step(self, event: events.Event) -> None:
        self._state, commands = rounds.step(self._state, event, self._now_ns())
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: events.Command) -> None:
        match command:
            case events.Send(device, message):
                self._send(device, message)
            case events.Broadcast(message):
                self._link.publish(all_topic(self._settings.link.site), encode_message(message))
            case events.Serve(device, get):
                self._serve(device, get.sha, get.indices)
            case events.OpenRound():
                self._open(command)
            case events.WriteChunk(device, chunk):
                self._arriving.write(device, chunk)
            case events.DropChunks(device, sha):
                self._arriving.drop(device, sha)
            case events.CheckUpdate(offer):
                self._check(offer)
            case events.RejectUpdate(offer, reason):
                self._verdict(offer, "rejected", reason)
            case events.CloseRound(round_index):
                self._close(round_index)
            case _:
                self._book(command)

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

    # --- messages ---------------------------------------------------------------------------------------------

    def _send(self, device: str, message: Message) -> None:
        payload = encode_message(message)
        self._count(device, down=len(payload))
        self._link.publish(down_topic(self._settings.link.site, device), payload)

    def _serve(self, device: str, sha: str, indices: tuple[int, ...]) -> None:
        for index in indices:
            chunk = self._blobs.chunk(sha, index)
            if chunk is not None:
                self._send(device, chunk)

    def _count(self, device: str, *, up: int = 0, down: int = 0) -> None:
        before = self._traffic.get(device, (0, 0))
        self._traffic[device] = (before[0] + up, before[1] + down)

    def _take_traffic(self) -> Traffic:
        taken, self._traffic = self._traffic, {}
        return taken

    def _flush_traffic(self, *, force: bool = False) -> None:
        """Bytes reach the ledger with every update; this is for quiet times."""
        now_ns = self._now_ns()
        if self._traffic and (force or now_ns >= self._flush_due_ns):
            last = min(self._state.round_index, self._settings.rounds.count)
            self._ledger.add_traffic(last, self._take_traffic())
            self._flush_due_ns = now_ns + int(TRAFFIC_FLUSH_S * SECOND_NS)

    # --- rounds -----------------------------------------------------------------------------------------------

    def _open(self, command: events.OpenRound) -> None:
        self._opened_ns = self._now_ns()
        servable = self._servable(command.devices)
        earlier = {device: task.assignment for device, task in self._state.tasks.items()}
        assignments, bytes_max = self._federation.assign(
            self._run_state,
            (self._run_id, command.round_index, command.attempt),
            servable,
            self._timed() if self._federation.method.needs_times else self._present(),
            earlier,
        )
        self._ledger.open_round(command.round_index, command.attempt, bytes_max, assignments)
        self._tell(
            run_events.RoundOpened(
                round_index=command.round_index,
                devices=[a.device for a in assignments],
                sparsities=[self._federation.submodels.sparsity_of(a) for a in assignments],
            )
        )
        self._step(events.Opened(assignments, bytes_max))

    def _present(self) -> dict[str, Present]:
        """Every member, with what its hello says."""
        return {device: Present(member.hello.sample_count) for device, member in self._state.members.items()}

    def _timed(self) -> dict[str, Present]:
        """Every member, with what is known of its times too."""
        hellos = {device: member.hello for device, member in self._state.members.items()}
        present, notes = self._times.present(self._ledger, hellos, self._kept.facts, self._state.round_index)
        for text in notes:
            self._book(events.Note(text))
        return present

    def _servable(self, devices: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """The engines of the devices for which an artifact can be made; the others are told of and left out."""
        servable, why = {}, ""
        for device in devices:
            engines = self._state.members[device].hello.engines
            try:
                self._federation.artifacts.for_engines(engines)
            except EngineError as error:
                why = str(error)
                self._tell(run_events.Noted(text=f"{device} gets no assignment: {why}"))
                continue
            servable[device] = engines
        if devices and not servable:
            raise UsageError(f"no device of round {self._state.round_index} can be given an artifact: {why}")
        return servable

    def _check(self, offer: Offer) -> None:
        data = self._arriving.take(offer.device, offer.update_sha)
        if data is None:
            self._step(events.Spoilt(offer, f"blob {offer.update_sha[:12]} does not match its SHA-256"))
            return
        try:
            self._federation.submodels.check(self._state.tasks[offer.device].assignment, offer, data)
        except RemoteWireError as error:
            self._verdict(offer, "rejected", str(error))
            return
        self._blobs.put(data)
        self._verdict(offer, "accepted", "")

    def _verdict(self, offer: Offer, verdict: Verdict, reason: str) -> None:
        receipt = Receipt(
            assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason[:2000]
        )
        self._ledger.record_update(self._state.round_index, offer, receipt, self._take_traffic())
        p50 = offer.measurement.step_ns_p50.value
        self._tell(
            run_events.UpdateJudged(
                device=offer.device,
                verdict=verdict,
                reason=reason,
                bytes=offer.size_bytes,
                step_ms_p50=None if p50 is None else p50 / 1e6,
            )
        )
        self._step(events.Checked(offer.device, receipt))

    def _close(self, round_index: int) -> None:
        accepted = {d: t.offer for d, t in self._state.tasks.items() if t.status == "accepted" and t.offer is not None}
        assigned = {d: self._state.tasks[d].assignment for d in accepted}
        outcome = self._federation.close(self._run_state, round_index, self._present(), accepted, assigned)
        self._commit(round_index, accepted, assigned, outcome)
        self._tell(run_events.RoundClosed(round_index=round_index))
        last = round_index >= self._settings.rounds.count
        self._step(events.Closed())
        if last:
            self._finish()

    def _commit(
        self,
        round_index: int,
        accepted: dict[str, Offer],
        assigned: dict[str, Assignment],
        outcome: RoundOutcome,
    ) -> None:
        """State to disk, then the ledger's row that makes it count, then what nobody needs any more goes."""
        state_sha = self._blobs.put(encode_state(outcome.state))
        self._ledger.add_traffic(round_index, self._take_traffic())
        traffic = self._ledger.traffic().get(round_index, {})
        dense, sparse = outcome.evaluation.dense, outcome.evaluation.sparse
        result = RoundResult(
            round_index=round_index,
            accuracy_dense=dense.accuracy if dense else None,
            accuracy_sparse=sparse.accuracy if sparse else None,
            loss_sparse=sparse.loss if sparse else None,
            bytes_up=sum(up for up, _ in traffic.values()),
            bytes_down=sum(down for _, down in traffic.values()),
            wall_s=(self._now_ns() - self._opened_ns) / SECOND_NS,
            devices=device_rounds(self._federation, assigned, accepted, outcome),
        )
        if round_index >= self._settings.rounds.count:
            save_model(self._folder, round_index, self._federation, outcome)
        self._ledger.commit_round(round_index, state_sha, result, {})
        self._run_state = outcome.state
        self._blobs.keep_only(self._federation.artifacts.shas | {state_sha})
        self._tell(run_events.committed(result))
        self._note_uploaded_by_nobody(result)

    def _note_uploaded_by_nobody(self, result: RoundResult) -> None:
        """Say once, and again when it changes, what no device uploads: the model's accuracy cannot be read with it."""
        names = uploaded_by_nobody(d.kept_back for d in result.devices)
        if names and names != self._uploaded_by_nobody:
            self._tell(run_events.Noted(text=f"no device uploads {', '.join(names)}: {UPLOADED_BY_NOBODY}"))
        self._uploaded_by_nobody = names

    def _finish(self) -> None:
        """The last round is committed: write what the run leaves, then wait for farewells."""
        self._finished_ns = self._now_ns()
        self._write_result()
        self._tell(run_events.Finished(folder=str(self._folder)))

    def _write_result(self) -> None:
        write_result(self._folder, run_result(self._ledger, self._federation, self._run_state, self._settings))
