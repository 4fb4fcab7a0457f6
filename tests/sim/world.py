"""One aggregator and some devices over a lossy link, on a simulated clock, all chance drawn from one seed.

The pure state machines (`rounds.step`, `agent.step`) and the ledger are the real ones; only their shells are stood
in for: disks are dictionaries that outlive a crash, training is a hash, messages are lost, doubled, late and out of
order, and a process may die before any command it was about to carry out. A restart rebuilds the state from what
was persisted, as `aggregator/service.py` and `device_runtime/runner.py` do.
"""

import hashlib
import heapq
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.core import rounds
from aggregator.ledger import Ledger
from device_runtime import agent
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.messages import (
    Assignment,
    Chunk,
    Get,
    Gone,
    Goodbye,
    Hello,
    Message,
    Offer,
    Receipt,
    RollCall,
)
from device_runtime.wire.support import sha256_hex
from tests.fakes import HYPER, cut_chunk, measurement

SECOND_NS = 1_000_000_000
TICK_NS = SECOND_NS
AGGREGATOR = "aggregator"


class Crash(Exception):
    """The process dies here."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Faults:
    """How likely each misfortune is: of a message, or of a process before a command or at a tick."""

    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    delay_s: float = 0.05
    crash: float = 0.0
    crash_count_max: int = 0
    partition: float = 0.0
    refusal: float = 0.0
    goodbye: float = 0.0
    death: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is run: so many rounds with so many devices, under these rules and faults."""

    rounds: int = 3
    devices: int = 3
    quorum: int = 3
    deadline_s: float = 60.0
    faults: Faults = field(default_factory=Faults)


def expand(text: str, count: int) -> bytes:
    """`count` bytes that only depend on `text`."""
    blocks = (hashlib.sha256(f"{text}/{i}".encode()).digest() for i in range(-(-count // 32)))
    return b"".join(blocks)[:count]


def train(device: str, model_version: int, params: bytes) -> bytes:
    """The update of a device: as in the real engine, the same for every attempt and after every restart."""
    return expand(f"{device}/{model_version}/{sha256_hex(params)}", 200 + 37 * model_version)


class World:
    """The clock, the link and everybody on it."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(seed)
        self.now_ns = 0
        self.crashes = 0
        self.partitioned: dict[str, int] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.devices = {f"d{i}": DeviceProcess(self, f"d{i}") for i in range(plan.devices)}
        self.aggregator = AggregatorProcess(self)
        for process in (self.aggregator, *self.devices.values()):
            self.after(self.random.uniform(0, 1), process.start)

    # --- clock ------------------------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_ns + int(seconds * SECOND_NS), next(self._order), action))

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let things happen until a condition holds; False when simulated time ran out first."""
        end = self.now_ns + int(seconds * SECOND_NS)
        while self._events and not until():
            self.now_ns, _, action = heapq.heappop(self._events)
            if self.now_ns > end:
                return False
            action()
        return until()

    # --- misfortune -------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def may_crash(self) -> None:
        faults = self.plan.faults
        if self.crashes < faults.crash_count_max and self.chance(faults.crash):
            self.crashes += 1
            raise Crash

    def send(self, device: str, message: Message, *, up: bool) -> None:
        """Carry a message between a device and the aggregator, if luck will have it."""
        faults = self.plan.faults
        data = encode_message(message)
        for _ in range(2 if self.chance(faults.duplication) else 1):
            if self.chance(faults.loss) or self.partitioned.get(device, 0) > self.now_ns:
                continue
            received = decode_message(data, allow_unsigned=True)
            if isinstance(received, Chunk) and self.chance(faults.corruption):
                flipped = bytes([received.data[0] ^ 1]) + received.data[1:]
                received = Chunk(sha=received.sha, index=received.index, size_bytes=received.size_bytes, data=flipped)
            self.after(self.random.uniform(0.001, faults.delay_s), self._delivery(device, received, up))

    def _delivery(self, device: str, message: Message, up: bool) -> Callable[[], None]:
        if up:
            return lambda: self.aggregator.deliver(device, message)
        return lambda: self.devices[device].deliver(message)


class Process(ABC):
    """What both ends share: dying, coming back, ticking."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = False
        self.life = 0

    def start(self) -> None:
        self.alive = True
        self.life += 1
        self.guarded(self.boot)
        self._tick_later(self.life)

    def _tick_later(self, life: int) -> None:
        self.world.after(TICK_NS / SECOND_NS, lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        if self.alive and self.life == life:
            self.guarded(self.tick)
            self._tick_later(life)

    def guarded(self, action: Callable[[], None]) -> None:
        """Do it, or die on the way and be restarted a while later."""
        try:
            action()
        except Crash:
            self.alive = False
            self.die()
            self.world.after(self.world.random.uniform(0.1, 20), self.start)

    @abstractmethod
    def boot(self) -> None:
        """Rebuild the state from what was persisted, and begin."""

    @abstractmethod
    def tick(self) -> None:
        """Time passed."""

    @abstractmethod
    def die(self) -> None:
        """What others notice of the death."""


class DeviceProcess(Process):
    """The shell of `agent`, as `device_runtime/runner.py`: `blobs` and `spool` are its disk."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world)
        self.name = name
        self.blobs: dict[str, bytes] = {}
        self.spool: Offer | None = None
        self.training: str | None = None
        self.left = False
        self.gone_for_good = False

    def boot(self) -> None:
        self.training = None
        hello = Hello(device=self.name, session=f"life-{self.life}", engines=("fake",), sample_count=20, version="0")
        self.state = agent.AgentState(hello=hello, leave_when_released=True)
        self.step(agent.Connected())

    def die(self) -> None:
        self.world.send(self.name, Gone(device=self.name, session=f"life-{self.life}"), up=True)

    def tick(self) -> None:
        world, faults = self.world, self.world.plan.faults
        world.may_crash()
        if world.chance(faults.partition):
            seconds = world.random.uniform(1, 30)
            world.partitioned[self.name] = world.now_ns + int(seconds * SECOND_NS)
            self.step(agent.Disconnected())
            world.after(seconds, self._reconnected(self.life))
        if world.chance(faults.goodbye):
            self.goodbye("stopped by a person")
            world.after(world.random.uniform(1, 40), self.start)
            return
        if (
            world.aggregator.round_seen > 1
            and world.chance(faults.death)
            and sum(not d.gone_for_good for d in world.devices.values()) > world.plan.quorum
        ):
            self.alive, self.gone_for_good = False, True
            return
        self.step(agent.Tick())

    def _reconnected(self, life: int) -> Callable[[], None]:
        def act() -> None:
            if self.alive and self.life == life:
                self.guarded(lambda: self.step(agent.Connected()))

        return act

    def goodbye(self, reason: str) -> None:
        self.alive = False
        session = self.state.hello.session
        self.world.send(self.name, Goodbye(device=self.name, session=session, reason=reason), up=True)

    def deliver(self, message: Message) -> None:
        if self.alive:
            self.guarded(lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        if not isinstance(message, Assignment):
            self.step(agent.Received(message))
            return
        wanted = (message.graph_sha, message.params_sha, *message.support_shas)
        lacking = tuple(sha for sha in dict.fromkeys(wanted) if sha not in self.blobs)
        self.step(agent.Assigned(message, lacking, self._spooled(message.id)))

    def _spooled(self, assignment_id: str) -> Offer | None:
        spool = self.spool
        fits = spool is not None and spool.assignment_id == assignment_id and spool.update_sha in self.blobs
        return spool if fits else None

    def step(self, event: agent.Event) -> None:
        self.state, commands = agent.step(self.state, event, self.world.now_ns)
        for command in commands:
            self.world.may_crash()
            self._carry_out(command)

    def _carry_out(self, command: agent.Command) -> None:
        match command:
            case agent.Publish(message):
                self.world.send(self.name, message, up=True)
            case agent.StoreBlob(sha, data):
                self.blobs[sha] = data
            case agent.Train(assignment):
                self._train(assignment)
            case agent.SpoolUpdate(offer, update):
                self.blobs[offer.update_sha] = update
                self.world.may_crash()
                self.spool = offer
            case agent.Serve(get):
                self._serve(get)
            case agent.Unspool(receipt):
                self._unspool(receipt)
            case agent.Leave(reason):
                self.left = True
                self.goodbye(reason)

    def _train(self, assignment: Assignment) -> None:
        if self.training is not None:
            raise Broken(f"{self.name} trains {assignment.id} while it trains {self.training}")
        self.training = assignment.id
        life = self.life

        def done() -> None:
            if self.alive and self.life == life:
                self.training = None
                self.guarded(lambda: self._trained(assignment))

        self.world.after(self.world.random.uniform(0.5, 30), done)

    def _trained(self, assignment: Assignment) -> None:
        params = self.blobs.get(assignment.params_sha)
        if params is None or self.world.chance(self.world.plan.faults.refusal):
            self.step(agent.TrainingFailed(assignment.id, "it will not do"))
            return
        update = train(self.name, assignment.model_version, params)
        offer = Offer(
            assignment_id=assignment.id,
            device=self.name,
            update_sha=sha256_hex(update),
            size_bytes=len(update),
            sample_count=20,
            measurement=measurement(),
        )
        self.step(agent.Trained(offer, update))

    def _serve(self, get: Get) -> None:
        spool = self.spool
        data = self.blobs.get(get.sha) if spool is not None and spool.update_sha == get.sha else None
        for index in get.indices if data is not None else ():
            chunk = cut_chunk(data or b"", get.sha, index)
            if chunk is not None:
                self.world.send(self.name, chunk, up=True)

    def _unspool(self, receipt: Receipt) -> None:
        if self._spooled(receipt.assignment_id) is not None:
            self.spool = None
        current = self.state.assignment
        if current is not None:
            keep = {current.graph_sha, current.params_sha, *current.support_shas}
            if self.state.offer is not None:
                keep.add(self.state.offer.update_sha)
            self.blobs = {sha: data for sha, data in self.blobs.items() if sha in keep}


class AggregatorProcess(Process):
    """The shell of `rounds`, as `aggregator/service.py`: `ledger` and `blobs` are its disk."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        plan = world.plan
        self.ledger = Ledger(Path(":memory:"))
        self.graph, self.supports = expand("graph", 500), expand("supports", 40)
        self.blobs = {sha256_hex(b): b for b in (self.graph, self.supports)}
        self.committed: list[tuple[int, str, str]] = []
        self.round_seen = 0
        self.rules = rounds.RoundRules(
            round_count=plan.rounds, devices_min=plan.devices, quorum=plan.quorum,
            deadline_s=plan.deadline_s, missed_max=2, heartbeat_s=5.0,
        )  # fmt: skip
        self.state = rounds.RoundState(self.rules)
        self.model = b""

    @property
    def finished(self) -> bool:
        return self.alive and self.state.phase == "finished"

    # --- starting again ---------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.model, self.state = self._resume()
        for device in self.world.devices:
            self.world.send(device, RollCall(session=f"life-{self.life}"), up=False)

    def _resume(self) -> tuple[bytes, rounds.RoundState]:
        committed = self.ledger.last_committed()
        count = 0 if committed is None else committed[0]
        model = b"start" if committed is None else self.blobs[committed[1]]
        members = [hello for hello, member, _, _ in self.ledger.devices() if member]
        opened = self.ledger.opened_round(count + 1)
        return model, rounds.resume(self.rules, members, count, opened, self.world.now_ns)

    # --- the loop ---------------------------------------------------------------------------------------------

    def die(self) -> None:
        """Nobody notices: the aggregator has no last will."""

    def tick(self) -> None:
        self.world.may_crash()
        self.step(rounds.Tick())

    def deliver(self, device: str, message: Message) -> None:
        if self.alive:
            self.guarded(lambda: self.step(rounds.Heard(device, message)))

    def step(self, event: rounds.Event) -> None:
        self.state, commands = rounds.step(self.state, event, self.world.now_ns)
        if self.state.round_index < self.round_seen:
            raise Broken(f"the round index fell from {self.round_seen} to {self.state.round_index}")
        self.round_seen = self.state.round_index
        for command in commands:
            self.world.may_crash()
            self._carry_out(command)

    def _carry_out(self, command: rounds.Command) -> None:
        match command:
            case rounds.Send(device, message):
                self._send(device, message)
            case rounds.Broadcast(message):
                for device in self.world.devices:
                    self.world.send(device, message, up=False)
            case rounds.Serve(device, get):
                self._serve(device, get)
            case rounds.OpenRound():
                self._open(command)
            case rounds.CheckUpdate(offer, data):
                self._check(offer, data)
            case rounds.RejectUpdate(offer, reason):
                raise Broken(f"an honest update was refused: {offer.assignment_id}, {reason}")
            case rounds.CloseRound(round_index):
                self._close(round_index)
            case rounds.Enrol(hello):
                self.ledger.enrol(hello)
            case rounds.Depart(device, reason):
                self.ledger.depart(device, reason)
            case rounds.RecordRefusal(refusal):
                self.ledger.refuse(refusal)
            case rounds.Note():
                pass

    def _send(self, device: str, message: Message) -> None:
        if isinstance(message, Receipt) and message.verdict == "accepted":
            opened = self.ledger.opened_round(int(message.assignment_id.split("-")[1]))
            given = None if opened is None else opened.receipts.get((message.assignment_id, message.update_sha))
            if given is None or given.verdict != "accepted":
                raise Broken(f"{message.assignment_id} got a receipt that the ledger does not know")
        self.world.send(device, message, up=False)

    def _serve(self, device: str, get: Get) -> None:
        data = self.blobs.get(get.sha)
        for index in get.indices if data is not None else ():
            chunk = cut_chunk(data or b"", get.sha, index)
            if chunk is not None:
                self.world.send(device, chunk, up=False)

    def _params(self) -> bytes:
        return expand(f"params {self.model.hex()}", 700)

    def _open(self, command: rounds.OpenRound) -> None:
        params = self._params()
        self.blobs[sha256_hex(params)] = params
        assignments = tuple(
            Assignment(
                id=f"run-{command.round_index}-{command.attempt}-{device}",
                device=device,
                model_version=command.round_index,
                graph_sha=sha256_hex(self.graph),
                params_sha=sha256_hex(params),
                support_shas=(sha256_hex(self.supports),),
                hyper=HYPER,
                ttl_s=10 * self.rules.deadline_s,
            )
            for device in command.devices
        )
        self.world.may_crash()
        self.ledger.open_round(command.round_index, command.attempt, 1000, assignments)
        self.world.may_crash()
        self.step(rounds.Opened(assignments, 1000))

    def _check(self, offer: Offer, data: bytes) -> None:
        if data != train(offer.device, self.state.round_index, self._params()):
            raise Broken(f"the update pulled for {offer.assignment_id} is not the one trained")
        self.blobs[offer.update_sha] = data
        receipt = Receipt(assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict="accepted")
        self.world.may_crash()
        self.ledger.record_update(self.state.round_index, offer, receipt, {})
        self.world.may_crash()
        self.step(rounds.Checked(offer.device, receipt))

    def _close(self, round_index: int) -> None:
        accepted = {d: t.offer for d, t in self.state.tasks.items() if t.status == "accepted" and t.offer is not None}
        opened = self.ledger.opened_round(round_index)
        if opened is None or opened.accepted != accepted:
            raise Broken(f"round {round_index} would aggregate {sorted(accepted)}, which is not what was accepted")
        rows = [(round_index, device, accepted[device].update_sha) for device in sorted(accepted)]
        model = hashlib.sha256(self.model + b"".join(self.blobs[row[2]] for row in rows)).digest()
        self.blobs[sha256_hex(model)] = model
        self.world.may_crash()
        self.ledger.commit_round(round_index, sha256_hex(model), {}, {})
        self.committed += rows
        self.model = model
        self.world.may_crash()
        keep = {sha256_hex(b) for b in (self.graph, self.supports, model)}
        self.blobs = {sha: data for sha, data in self.blobs.items() if sha in keep}
        self.step(rounds.Closed())
