"""Conversations with the state machines, written down one event or command to a line.

`>` is what happened, an indented line is what the machine wants done about it. The talker answers for the shell where
the real one answers at once: a round that is to be opened is open, an update that is to be checked is good.
"""

from dataclasses import replace

from aggregator.core import round_events as events
from aggregator.core import rounds
from aggregator.core.round_state import RoundRules, RoundState, Task, Tasks
from device_runtime import agent
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
    Refusal,
    Release,
    RollCall,
    Welcome,
)
from tests import fakes
from tests.fakes import cut_chunk

SECOND_NS = 1_000_000_000
KNOWN = {fakes.sha(text): text for text in ("graph", "supports", *(f"params {i}" for i in range(1, 9)))}


def named(sha: str) -> str:
    """A word for a hash."""
    return KNOWN.get(sha, sha[:8])


def words(message: Message) -> str:
    """A message in a few words."""
    match message:
        case Hello() | Gone() | RollCall():
            detail = message.session
        case Goodbye():
            detail = f"{message.session} ({message.reason})"
        case Welcome():
            detail = f"to round {message.round_index}"
        case Assignment():
            detail = message.id
        case Get():
            detail = f"{named(message.sha)} {list(message.indices)}"
        case Chunk():
            detail = f"{named(message.sha)} [{message.index}] of {message.size_bytes} bytes"
        case Offer():
            detail = f"{message.assignment_id} {named(message.update_sha)} of {message.size_bytes} bytes"
        case Receipt():
            reason = f" ({message.reason})" if message.reason else ""
            detail = f"{message.assignment_id} {named(message.update_sha)} {message.verdict}{reason}"
        case Refusal():
            detail = f"{message.assignment_id} ({message.reason})"
        case Release():
            detail = f"({message.reason})"
    return f"{type(message).__name__} {detail}"


class Talk:
    """Lines so far, and the clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now_ns = 0

    def say(self, text: str) -> None:
        self.lines += ["", f"# {text}"]

    def text(self) -> str:
        return "\n".join(self.lines).strip() + "\n"


class RoundTalk(Talk):
    """A conversation with the round machine."""

    def __init__(self, **rules) -> None:
        super().__init__()
        defaults = {"round_count": 2, "devices_min": 2, "quorum": 2, "deadline_s": 60.0}
        self.rules = RoundRules(**(defaults | rules))
        self.state = RoundState(self.rules)
        self.assignments: dict[str, Assignment] = {}
        self.updates: dict[str, bytes] = {}
        self.is_worker_slow = False  # then what closes is closed by `closed` only

    # --- events -----------------------------------------------------------------------------------------------

    def happens(self, event: events.Event, text: str) -> list[events.Command]:
        self.lines.append(f"> {text}")
        self.state, commands = rounds.step(self.state, event, self.now_ns)
        for command in commands:
            self.lines.append(f"    {self.spell(command)}")
            self.answer(command)
        return commands

    def heard(self, device: str, message: Message) -> list[events.Command]:
        return self.happens(events.Heard(device, message), f"{device} says {words(message)}")

    def hello(self, device: str, session: str = "s1") -> None:
        self.heard(device, fakes.hello(device, session))

    def offer(self, device: str, data: bytes = b"update", **changed) -> Offer:
        offer = fakes.offer(self.assignments[device], data, **changed)
        self.updates[device] = data
        self.heard(device, offer)
        return offer

    def chunk(self, device: str, index: int = 0) -> None:
        data = self.updates[device]
        chunk = cut_chunk(data, fakes.offer(data=data).update_sha, index)
        assert chunk is not None
        self.heard(device, chunk)

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)
        self.happens(events.Tick(), f"{seconds:g} s later")

    def restart(self, **changed) -> None:
        """The aggregator dies and comes back, as service.py resumes from its ledger."""
        tasks = {
            device: Task(task.assignment, task.status if task.status == "accepted" else "assigned", task.offer)
            for device, task in self.state.tasks.items()
        }
        self.state = replace(
            self.state, tasks=Tasks(tasks), deadline_ns=self.now_ns + int(self.rules.deadline_s * SECOND_NS), **changed
        )
        self.say("the aggregator dies, comes back, and calls the roll")

    # --- commands ---------------------------------------------------------------------------------------------

    def answer(self, command: events.Command) -> None:
        match command:
            case events.OpenRound(round_index, attempt, devices):
                made = tuple(fakes.assignment(device, round_index, attempt) for device in devices)
                self.assignments |= {a.device: a for a in made}
                self.happens(events.Opened(made, 1000), "opened")
            case events.CheckUpdate(offer):
                self.checked(offer, "accepted", "")
            case events.RejectUpdate(offer, reason):
                self.checked(offer, "rejected", reason)
            case events.CloseRound() if not self.is_worker_slow:
                self.closed()

    def closed(self) -> None:
        self.happens(events.Closed(), "closed")

    def checked(self, offer: Offer, verdict, reason: str) -> None:
        receipt = Receipt(
            assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason
        )
        self.happens(events.Checked(offer.device, receipt), f"checked: {verdict}")

    def spell(self, command: events.Command) -> str:
        match command:
            case events.Send(device, message):
                return f"tell {device}: {words(message)}"
            case events.Broadcast(message):
                return f"tell all: {words(message)}"
            case events.Enrol(hello):
                return f"journal: {hello.device} is a member"
            case events.Depart(device, reason):
                return f"journal: {device} is a member no more ({reason})"
            case events.OpenRound(round_index, attempt, devices):
                return f"open round {round_index}, attempt {attempt}, with {', '.join(devices)}"
            case events.WriteChunk(device, chunk):
                return f"write {named(chunk.sha)} [{chunk.index}] of {device}, {len(chunk.data)} bytes"
            case events.DropChunks(device, sha):
                return f"drop what was written of {named(sha)} of {device}"
            case events.CheckUpdate(offer):
                return f"check and journal the update of {offer.device}"
            case events.RejectUpdate(offer, reason):
                return f"journal: the update of {offer.device} is rejected unseen ({reason})"
            case events.RecordRefusal(refusal):
                return f"journal: {refusal.device} refused {refusal.assignment_id} ({refusal.reason})"
            case events.CloseRound(round_index):
                return f"aggregate and commit round {round_index}"
            case events.Serve(device, get):
                return f"serve {device}: {words(get)}"
            case events.Note(text):
                return f"note: {text}"


class AgentTalk(Talk):
    """A conversation with the agent of one device, which has its graph already."""

    def __init__(self, session: str = "s1", *, leave: bool = False) -> None:
        super().__init__()
        self.state = agent.AgentState(hello=fakes.hello(session=session), leave_when_released=leave)

    # --- events -----------------------------------------------------------------------------------------------

    def happens(self, event: agent.Event, text: str) -> list[agent.Command]:
        self.lines.append(f"> {text}")
        self.state, commands = agent.step(self.state, event, self.now_ns)
        self.lines += [f"    {self.spell(command)}" for command in commands]
        return commands

    def connected(self) -> None:
        self.happens(agent.Connected(), "connected")

    def heard(self, message: Message) -> None:
        self.happens(agent.Received(message), f"told {words(message)}")

    def welcomed(self, round_index: int = 1) -> None:
        self.connected()
        self.heard(Welcome(round_index=round_index, heartbeat_s=30.0))

    def assigned(self, of: Assignment, lacking: tuple[str, ...] = (), spooled: Offer | None = None) -> None:
        text = f"told {words(of)}"
        text += f"; lacking {', '.join(map(named, lacking))}" if lacking else ""
        text += "; its update is in the spool" if spooled else ""
        self.happens(agent.Assigned(of, lacking, spooled), text)

    def trained(self, of: Assignment, data: bytes = b"update") -> Offer:
        offer = fakes.offer(of, data)
        self.happens(agent.Trained(offer, data), f"trained {of.id}")
        return offer

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)
        self.happens(agent.Tick(), f"{seconds:g} s later")

    # --- commands ---------------------------------------------------------------------------------------------

    def spell(self, command: agent.Command) -> str:
        match command:
            case agent.Publish(message):
                return f"say {words(message)}"
            case agent.StoreBlob(sha, data):
                return f"store {named(sha)}, {len(data)} bytes"
            case agent.Train(assignment):
                return f"train {assignment.id}"
            case agent.SpoolUpdate(offer, update):
                return f"spool {named(offer.update_sha)}, {len(update)} bytes"
            case agent.Serve(get):
                return f"serve {words(get)}"
            case agent.Unspool(receipt):
                return f"unspool {receipt.assignment_id}"
            case agent.Leave(reason):
                return f"leave ({reason})"
