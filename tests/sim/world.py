"""One aggregator and some devices, the real ones, over a lossy link in memory, on simulated time, by one seed.

Nothing of the shells is stood in for but what `Surroundings` gives them: the link loses, doubles, delays and corrupts,
jobs take their time, and a process may die at anything it publishes or makes durable, and while it waits. Then its
object is thrown away, and a new one is built on the same folder, as after a kill.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aggregator.core.round_state import RoundState
from aggregator.ledger import Ledger
from aggregator.run_events import Finished, RoundCommitted, RunEvent, UpdateJudged
from aggregator.service import Aggregator
from aggregator.simulation.seat import Seat, Shell
from aggregator.simulation.timeline import Timeline
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.runner import Device
from device_runtime.surroundings import Arrived, Post
from device_runtime.wire.envelope import decode_message
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import Message, Offer, Receipt
from device_runtime.wire.settings import LinkSettings
from tests.sim.faults import Crash, LossyBroker, tear
from tests.sim.mischief import Mischief
from tests.sim.plan import SITE, Plan, run_settings


class Broken(AssertionError):
    """An invariant does not hold."""


class World:
    """The clock, the broker, and everybody on it. `folder` holds the disks of all."""

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.random = random.Random(seed)
        self.timeline = Timeline()
        self.broker = LossyBroker(self.timeline, self.random, plan.faults)
        self.broker.seen = self._seen
        self.crashes = 0
        self.acting: Process | None = None
        self.devices = {f"d{i}": DeviceProcess(self, f"d{i}", i) for i in range(plan.devices)}
        self.devices |= {f"x{i}": DeviceProcess(self, f"x{i}", i, "exotic") for i in range(plan.exotic)}
        self.aggregator = AggregatorProcess(self)
        self.processes = {p.client: p for p in (self.aggregator, *self.devices.values())}
        for process in self.processes.values():
            self.timeline.after(self.random.uniform(0, 1), process.begin)
        if plan.mischief:
            mischief = Mischief(self.broker, SITE, random.Random(f"mischief {seed}"))
            self.timeline.after(self.random.uniform(0, 10), mischief.begin)

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let things happen until a condition holds; False when simulated time ran out first."""
        return self.timeline.run(until, seconds)

    # --- misfortune -------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def may_crash(self) -> None:
        """The process that acts just now may die of it."""
        faults = self.plan.faults
        if self.acting is not None and self.crashes < faults.crash_count_max and self.chance(faults.crash):
            self.crashes += 1
            raise Crash

    def may_lose_one(self) -> bool:
        """Whether a quorum is left when one more device never comes back; not before the first round is through."""
        honest = [d for d in self.devices.values() if not d.gone_for_good and d.settings.engine == "fake"]
        return self.aggregator.round_seen > 1 and len(honest) > self.plan.quorum

    def training_fails(self) -> bool:
        return self.chance(self.plan.faults.refusal)

    # --- what is sent -----------------------------------------------------------------------------------------

    def _seen(self, sender: str, arrived: Arrived) -> None:
        try:
            message = decode_message(arrived.payload, allow_unsigned=True)
        except RemoteWireError:
            return
        process = self.processes.get(sender)
        if process is not None:
            process.check(message)
            self.may_crash()


class Process(Seat, ABC):
    """A seat whose shell may die, and comes back."""

    def __init__(self, world: World, client: str) -> None:
        super().__init__(world.broker)
        self.world = world
        self.client = client
        self.life = 0
        self.left = False
        self._working: object | None = None

    @abstractmethod
    def build(self) -> Shell:
        """A new shell on the old folder."""

    @abstractmethod
    def check(self, message: Message) -> None:
        """Raise Broken for a message that may not be sent now."""

    def misfortune(self) -> None:
        """What may happen while time passes."""
        self.world.may_crash()

    # --- lives ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.life += 1
        self._working = None
        self.guarded(lambda: self.take(self.build()))

    def guarded(self, action: Callable[[], object]) -> None:
        """Do it, or die on the way and be restarted a while later. Any other end of a process is a fault of ours."""
        self.world.acting = self
        try:
            action()
        except Crash:
            self.world.acting = None
            self.die()
            self.world.timeline.after(self.world.random.uniform(0.1, 20), self.begin)
        except Exception as error:
            raise Broken(f"{self.client} ended by itself: {type(error).__name__}: {error}") from error
        finally:
            self.world.acting = None

    def die(self) -> None:
        self.shell = None
        if self.link is not None:
            self.link.dead()

    # --- turns ------------------------------------------------------------------------------------------------

    def _post(self, post: Post, event: object) -> None:
        """The process is busy now and then, so that several events wait for one turn."""
        post(event)
        self.timeline.after(self.world.random.choice((0.0, 0.0, 0.7)), self._turn)

    def give(self, shell: Shell, event: object | None) -> None:
        def turn() -> None:
            if event is None:
                self.misfortune()
            if self.shell is shell:
                super(Process, self).give(shell, event)
                self.left = self.shell is None

        self.guarded(turn)

    def start(self, job: Callable[[], object], post: Post) -> None:
        """A job begins after a while, and its outcome arrives after another: a life may end before, or in between."""
        shell, world = self.shell, self.world
        if self._working is not None:
            raise Broken(f"{self.client} begins a job before the last one has ended")
        self._working = job

        def work() -> None:
            if self.shell is shell:
                self.guarded(lambda: world.timeline.after(world.random.uniform(0.1, 15), tell(job())))

        def tell(outcome: object) -> Callable[[], None]:
            def act() -> None:
                if self.shell is shell:
                    self._working = None
                    self._post(post, outcome)

            return act

        world.timeline.after(world.random.uniform(0.1, 15), work)


class DeviceProcess(Process):
    """A device with data of its own, in a folder of its own."""

    def __init__(self, world: World, name: str, number: int, engine: str = "fake") -> None:
        super().__init__(world, f"{SITE}-{name}")
        self.name = name
        self.gone_for_good = False
        self.folder = world.folder / name
        self.folder.mkdir()
        self.mean = (number + 1) / 8
        data = self.folder / "data.npz"
        np.savez(data, x=np.full((4, 3), self.mean, np.float32), y=np.zeros(4, np.int64))
        self.settings = DeviceSettings(
            name=name,
            folder=str(self.folder),
            data=DataSettings(source=str(data)),
            link=LinkSettings(site=SITE, allow_unsigned=True),
            engine=engine,
        )

    def build(self) -> Device:
        return Device(self.settings, self.surroundings)

    def check(self, message: Message) -> None:
        shell = self.shell
        if isinstance(message, Offer) and isinstance(shell, Device) and shell._spool.of(message.assignment_id) is None:
            raise Broken(f"{self.name} offers {message.assignment_id} before it is in its spool")

    def misfortune(self) -> None:
        super().misfortune()
        world, faults, shell, link = self.world, self.world.plan.faults, self.shell, self.link
        assert shell is not None
        assert link is not None
        if world.chance(faults.partition):
            link.broken("cut off")
            world.timeline.after(world.random.uniform(1, 30), lambda: self._reconnect(shell))
        if world.chance(faults.goodbye):
            self.shell = None
            shell.end()
            world.timeline.after(world.random.uniform(1, 40), self.begin)
        elif world.chance(faults.death) and world.may_lose_one():
            self.gone_for_good = True
            self.die()

    def _reconnect(self, shell: Shell) -> None:
        if self.shell is shell and self.link is not None:
            self.link.connect()


class AggregatorProcess(Process):
    """The aggregator; what it tells is heard here, over all its lives."""

    def __init__(self, world: World) -> None:
        super().__init__(world, f"{SITE}-aggregator")
        self.folder = world.folder / "run"
        self.settings = run_settings(world.plan, self.folder)
        self.events: list[RunEvent] = []
        self.finished = False
        self.round_seen = 0
        self._reader: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """What is on disk, read by a connection of its own."""
        if self._reader is None:
            self._reader = Ledger(self.folder / "ledger.sqlite", read_only=True)
        return self._reader

    def die(self) -> None:
        if isinstance(self.shell, Aggregator):
            tear(self.shell._work._blobs)
        super().die()

    def build(self) -> Aggregator:
        return Aggregator(self.settings, self.surroundings, [self.hear])

    def hear(self, event: RunEvent) -> None:
        self.events.append(event)
        match event:
            case UpdateJudged(device=device, verdict="rejected", reason=reason):
                if device in self.world.devices:
                    raise Broken(f"an honest update of {device} was refused: {reason}")
            case RoundCommitted(round_index=round_index):
                committed = self.ledger.last_committed()
                if committed is None or committed[0] != round_index:
                    raise Broken(f"round {round_index} is told of before it is committed")
            case Finished():
                self.finished = True

    def check(self, message: Message) -> None:
        if isinstance(message, Receipt) and message.verdict == "accepted":
            opened = self.ledger.opened_round(int(message.assignment_id.split("-")[1]))
            given = None if opened is None else opened.receipts.get((message.assignment_id, message.update_sha))
            if given is None or given.verdict != "accepted":
                raise Broken(f"{message.assignment_id} got a receipt that the ledger does not know")

    def give(self, shell: Shell, event: object | None) -> None:
        super().give(shell, event)
        assert isinstance(shell, Aggregator)
        state: RoundState = shell._state
        if state.round_index < self.round_seen:
            raise Broken(f"the round index fell from {self.round_seen} to {state.round_index}")
        self.round_seen = state.round_index
