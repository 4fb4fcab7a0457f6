"""What the round machine asks for is done here: assignments made, updates checked, rounds aggregated and committed.

What is done inside `durable` is on disk when that ends, and may be said then. Aggregating is a job for the worker: it
reads the blobs of accepted updates and changes nothing; what it gives counts when the loop commits it, and is computed
again where a process ended before.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator import run_events
from aggregator.core import round_events as events
from aggregator.core.method import Present, RunState
from aggregator.core.round_state import SECOND_NS, RoundState, resume
from aggregator.federation import Federation, RoundOutcome
from aggregator.ledger import Ledger, Traffic
from aggregator.member_times import MemberTimes
from aggregator.profiles.kept import KeptProfiles
from aggregator.results import UPLOADED_BY_NOBODY, RoundResult, uploaded_by_nobody
from aggregator.run_events import Listener
from aggregator.run_folder import device_rounds, new_run_id, run_result, save_model, write_result
from aggregator.settings import Settings
from aggregator.state import decode_state, encode_state
from aggregator.witness import write_witness
from device_runtime.store import ArrivingBlobs
from device_runtime.surroundings import Clock
from device_runtime.wire.errors import EngineError, RemoteWireError, UsageError
from device_runtime.wire.messages import Assignment, Offer, Receipt, Verdict

log = logging.getLogger("espalier.aggregator")


@dataclass(frozen=True, slots=True, eq=False)
class Aggregated:
    """What the worker made of a round: the outcome, and the state after it as it goes to disk."""

    round_index: int
    accepted: Mapping[str, Offer]
    assigned: Mapping[str, Assignment]
    outcome: RoundOutcome
    state_data: bytes


class RoundWork:
    """The rounds of one run: its model from round to round, its ledger, its folder.

    `tell` hears what happened; `take_traffic` gives the bytes that no record has counted yet.
    """

    def __init__(
        self,
        settings: Settings,
        federation: Federation,
        ledger: Ledger,
        kept: KeptProfiles,
        clock: Clock,
        tell: Listener,
        take_traffic: Callable[[], Traffic],
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.run.folder)
        self._federation, self._ledger, self._blobs = federation, ledger, federation.blobs
        self._clock, self._tell, self._take_traffic = clock, tell, take_traffic
        self.arriving = ArrivingBlobs(self._folder / "arriving")
        self.run_id = new_run_id(ledger)
        write_witness(self._folder, ledger)
        self._kept = kept
        self._times = MemberTimes(settings, federation)
        self._opened_ns = clock.monotonic_ns()
        self._uploaded_by_nobody: list[str] = []
        self._run_state = self._last_state()

    # --- resuming ---------------------------------------------------------------------------------------------

    def _last_state(self) -> RunState:
        """The state after the last committed round."""
        committed = self._ledger.last_committed()
        if committed is None:
            return self._initial_state()
        data = self._blobs.get(committed[1])
        if data is None:
            raise UsageError(f"the state of round {committed[0]} is missing from {self._folder}; restore it.")
        log.info("resuming after round %d", committed[0])
        return decode_state(data)

    def _initial_state(self) -> RunState:
        """The state before round 1, drawn once: a user's model need not give the same values twice."""
        sha = self._ledger.setting("initial_state")
        data = self._blobs.get(sha) if sha else None
        if data is None:
            data = encode_state(self._federation.start())
            self._ledger.set_setting("initial_state", self._blobs.put(data))
        return decode_state(data)

    def resume(self) -> RoundState:
        """The round machine as far as the ledger knows it."""
        committed = self._ledger.last_committed()
        count = 0 if committed is None else committed[0]
        members = [hello for hello, member, _, _ in self._ledger.devices() if member]
        opened, now_ns = self._ledger.opened_round(count + 1), self._clock.monotonic_ns()
        self._opened_ns = now_ns - int(self._ledger.seconds_since_opening(count + 1) * SECOND_NS)
        return resume(self._settings.round_rules, members, count, opened, now_ns)

    @contextmanager
    def durable(self) -> Iterator[None]:
        """What is done inside is on disk when the block ends, with one wait for all of it: blobs, then their rows."""
        with self._ledger.batch():
            yield
            self._blobs.sync()

    # --- opening ----------------------------------------------------------------------------------------------

    def open(self, command: events.OpenRound, state: RoundState) -> events.Opened | events.Unservable:
        """Make and record the assignments of a round, or of a further attempt of it."""
        servable, reasons = self._servable(command.devices, state)
        if reasons:
            return events.Unservable(reasons)
        if command.attempt == 0:
            self._opened_ns = self._clock.monotonic_ns()
        earlier = {device: task.assignment for device, task in state.tasks.items()}
        assignments, bytes_max = self._federation.assign(
            self._run_state,
            (self.run_id, command.round_index, command.attempt),
            servable,
            self._timed(state) if self._federation.method.needs_times else _present(state),
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
        return events.Opened(assignments, bytes_max)

    def _timed(self, state: RoundState) -> dict[str, Present]:
        """Every member, with what is known of its times too."""
        hellos = {device: member.hello for device, member in state.members.items()}
        present, notes = self._times.present(self._ledger, hellos, self._kept.facts, state.round_index)
        for text in notes:
            self._tell(run_events.Noted(text=text))
        return present

    def _servable(
        self, devices: tuple[str, ...], state: RoundState
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """The engines of the devices for which an artifact can be made, and why none can for the others."""
        servable, reasons = {}, {}
        for device in devices:
            engines = state.members[device].hello.engines
            try:
                self._federation.artifacts.for_engines(engines)
            except EngineError as error:
                reasons[device] = str(error)
                continue
            servable[device] = engines
        return servable, reasons

    # --- updates ----------------------------------------------------------------------------------------------

    def check(self, offer: Offer, state: RoundState) -> events.Checked | events.Spoilt:
        """Judge the update whose chunks were written."""
        data = self.arriving.take(offer.device, offer.update_sha)
        if data is None:
            return events.Spoilt(offer, f"blob {offer.update_sha[:12]} does not match its SHA-256")
        try:
            self._federation.submodels.check(state.tasks[offer.device].assignment, offer, data)
        except RemoteWireError as error:
            return self.judge(offer, "rejected", str(error), state)
        self._blobs.add(data)
        return self.judge(offer, "accepted", "", state)

    def judge(self, offer: Offer, verdict: Verdict, reason: str, state: RoundState) -> events.Checked:
        """Journal a verdict."""
        receipt = Receipt(
            assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason[:2000]
        )
        self._ledger.record_update(state.round_index, offer, receipt)
        self._ledger.add_traffic(state.round_index, self._take_traffic())
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
        return events.Checked(offer.device, receipt)

    # --- closing ----------------------------------------------------------------------------------------------

    def closing(self, state: RoundState) -> Callable[[], Aggregated]:
        """The job that aggregates and evaluates what the round has accepted by now."""
        accepted = {d: t.offer for d, t in state.tasks.items() if t.status == "accepted" and t.offer is not None}
        assigned = {device: state.tasks[device].assignment for device in accepted}
        before, round_index, present = self._run_state, state.round_index, _present(state)

        def aggregate() -> Aggregated:
            outcome = self._federation.close(before, round_index, present, accepted, assigned)
            return Aggregated(round_index, accepted, assigned, outcome, encode_state(outcome.state))

        return aggregate

    def commit(self, aggregated: Aggregated) -> events.Closed:
        """State to disk, then the ledger's row that makes it count, then what nobody needs any more goes."""
        round_index, outcome = aggregated.round_index, aggregated.outcome
        state_sha = self._blobs.put(aggregated.state_data)
        self._ledger.add_traffic(round_index, self._take_traffic())
        result = self._result(aggregated)
        if round_index >= self._settings.rounds.count:
            save_model(self._folder, round_index, self._federation, outcome)
        self._ledger.commit_round(round_index, state_sha, result)
        self._blobs.sync()
        self._ledger.checkpoint()
        write_witness(self._folder, self._ledger)
        self._run_state = outcome.state
        self._blobs.keep_only(self._federation.artifacts.shas | {state_sha})
        self._tell(run_events.committed(result))
        self._note_uploaded_by_nobody(result)
        self._tell(run_events.RoundClosed(round_index=round_index))
        return events.Closed()

    def _result(self, aggregated: Aggregated) -> RoundResult:
        outcome = aggregated.outcome
        dense, sparse = outcome.evaluation.dense, outcome.evaluation.sparse
        bytes_up, bytes_down = self._ledger.traffic_of(aggregated.round_index)
        return RoundResult(
            round_index=aggregated.round_index,
            accuracy_dense=dense.accuracy if dense else None,
            accuracy_sparse=sparse.accuracy if sparse else None,
            loss_sparse=sparse.loss if sparse else None,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            wall_s=(self._clock.monotonic_ns() - self._opened_ns) / SECOND_NS,
            devices=device_rounds(self._federation, aggregated.assigned, aggregated.accepted, outcome),
        )

    def _note_uploaded_by_nobody(self, result: RoundResult) -> None:
        """Say once, and again when it changes, what no device uploads: the model's accuracy cannot be read with it."""
        names = uploaded_by_nobody(d.kept_back for d in result.devices)
        if names and names != self._uploaded_by_nobody:
            self._tell(run_events.Noted(text=f"no device uploads {', '.join(names)}: {UPLOADED_BY_NOBODY}"))
        self._uploaded_by_nobody = names

    def write_result(self) -> None:
        """What a finished run leaves beside its model."""
        write_result(self._folder, run_result(self._ledger, self._federation, self._run_state, self._settings))


def _present(state: RoundState) -> dict[str, Present]:
    """Every member, with what its hello says."""
    return {device: Present(member.hello.sample_count) for device, member in state.members.items()}
