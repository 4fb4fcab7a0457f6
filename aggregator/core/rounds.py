"""The round as a pure state machine: who is here, what each was assigned, what came back, when the round closes.

    gathering --enough members--> opening --Opened--> open --all answered, or deadline with quorum--> closing
        ^                                                                                               |
        +--------------------------- Closed, more rounds to go -----------------------------------------+--> finished

A device becomes a member by its hello and stays one while its connection is merely broken: it leaves by a goodbye, by
missing `missed_max` rounds in a row, or when no artifact can be made for it: then it waits outside until it names other
engines. So a device that is killed and restarted takes part in the same rounds as if nothing had happened, and the run
ends with the same bits. Commands come in the order the shell must carry them out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from aggregator.core import pulls
from aggregator.core.pulls import PullRules, Pulls
from aggregator.core.round_events import (
    Broadcast,
    Checked,
    CheckUpdate,
    Closed,
    CloseRound,
    Command,
    Depart,
    Enrol,
    Event,
    Heard,
    Note,
    Opened,
    OpenRound,
    RecordRefusal,
    RejectUpdate,
    Send,
    Serve,
    Spoilt,
    Tick,
    Unservable,
)
from device_runtime.wire.limits import DEVICE_COUNT_MAX, TEXT_BYTES_MAX, UPDATE_CHUNKS_MAX, WINDOW_CHUNKS
from device_runtime.wire.messages import (
    Assignment,
    BlobRef,
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
    Verdict,
    Welcome,
)

SECOND_NS = 1_000_000_000
PULL_RULES = PullRules(UPDATE_CHUNKS_MAX, WINDOW_CHUNKS)

Stage = Literal["gathering", "opening", "open", "closing", "finished"]
TaskStatus = Literal["assigned", "receiving", "checking", "accepted", "rejected", "refused"]
ANSWERED = ("accepted", "rejected", "refused")


@dataclass(frozen=True, slots=True)
class RoundRules:
    """round_count rounds; the first opens with `devices_min` members. A round closes when every assigned device
    answered, or after `deadline_s` with at least `quorum` accepted updates; below quorum it goes on."""

    round_count: int
    devices_min: int = 1
    quorum: int = 1
    deadline_s: float = 600.0
    missed_max: int = 2
    heartbeat_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Member:
    """A device of the federation, as its last hello described it."""

    hello: Hello
    online: bool = True
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """What one device was assigned this round, and how far its answer is."""

    assignment: Assignment
    status: TaskStatus = "assigned"
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class Outsider:
    """A device that waits outside: for none of the engines it named can an artifact be made."""

    engines: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class RoundState:
    """All the aggregator's decisions rest on. `receipts` are the final words given, by (assignment id, update sha)."""

    rules: RoundRules
    round_index: int = 1
    stage: Stage = "gathering"
    attempt: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    outsiders: Mapping[str, Outsider] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    update_bytes_max: int = 0
    deadline_ns: int = 0
    receipts: Mapping[tuple[str, str], Receipt] = field(default_factory=dict)
    pulls: Pulls = field(default=Pulls(PULL_RULES))


@dataclass(frozen=True, slots=True)
class OpenedRound:
    """A round on record: its assignments, the offers accepted so far, every receipt given, every refusal (by id)."""

    round_index: int
    attempt: int
    update_bytes_max: int
    assignments: tuple[Assignment, ...]
    accepted: Mapping[str, Offer]
    receipts: Mapping[tuple[str, str], Receipt]
    refused: frozenset[str]


Step = tuple[RoundState, list[Command]]


def resume(
    rules: RoundRules, members: Iterable[Hello], rounds_committed: int, opened: OpenedRound | None, now_ns: int
) -> RoundState:
    """The state after a restart, from what the ledger holds: who is a member, and the round that was under way.

    Members count as offline until they are heard; an open round gets a fresh deadline.
    """
    known = {hello.device: Member(hello, online=False) for hello in members}
    state = RoundState(rules, round_index=rounds_committed + 1, members=known)
    if rounds_committed >= rules.round_count:
        return replace(state, stage="finished")
    if opened is None:
        return state
    answered = opened.refused | {assignment_id for assignment_id, _ in opened.receipts}
    tasks = {}
    for assignment in opened.assignments:
        status: TaskStatus = "rejected" if assignment.id in answered else "assigned"
        if assignment.device in opened.accepted:
            status = "accepted"
        tasks[assignment.device] = Task(assignment, status, opened.accepted.get(assignment.device))
    return replace(
        state,
        stage="open",
        attempt=opened.attempt,
        tasks=tasks,
        update_bytes_max=opened.update_bytes_max,
        deadline_ns=now_ns + int(rules.deadline_s * SECOND_NS),
        receipts=opened.receipts,
    )


def step(state: RoundState, event: Event, now_ns: int) -> Step:
    """The next state and what to do, in order. Never raises for anything a peer can cause."""
    match event:
        case Heard(device, message):
            return _heard(state, device, message, now_ns)
        case Opened():
            return _opened(state, event, now_ns)
        case Unservable(reasons):
            return _unservable(state, reasons, now_ns)
        case Checked():
            return _advance(*_checked(state, event), now_ns)
        case Spoilt(offer, reason):
            return _spoilt(state, offer, reason)
        case Closed():
            return _closed(state, now_ns)
        case Tick():
            return _tick(state, now_ns)


def _heard(state: RoundState, device: str, message: Message, now_ns: int) -> Step:
    match message:
        case Hello() if message.device == device:
            return _hello(state, message, now_ns)
        case Goodbye() if message.device == device:
            return _advance(*_leave(state, message, now_ns), now_ns)
        case Gone() if message.device == device:
            return _gone(state, message)
        case Get():
            return state, [Serve(device, message)]
        case Chunk():
            return _chunk(state, device, message, now_ns)
        case Offer() if message.device == device:
            return _offer(state, message, now_ns)
        case Refusal() if message.device == device:
            return _advance(*_refusal(state, message, now_ns), now_ns)
        case _:
            return state, [Note(f"{device} sent a {type(message).__name__} that is not its to send; ignored")]


# --- membership ---------------------------------------------------------------------------------------------------


def _hello(state: RoundState, hello: Hello, now_ns: int) -> Step:
    device = hello.device
    known, outsider = state.members.get(device), state.outsiders.get(device)
    if outsider is not None and outsider.engines == hello.engines and state.stage != "finished":
        return state, [Send(device, _welcome(state, outsider.why))]
    state = _no_outsider(state, device)
    if known is None and len(state.members) + len(state.outsiders) >= DEVICE_COUNT_MAX:
        return state, [Note(f"{device} is not taken in: there are {DEVICE_COUNT_MAX} devices already")]
    member = Member(hello) if known is None else replace(known, hello=hello, online=True)
    state = replace(state, members={**state.members, device: member})
    commands: list[Command] = []
    if known is None or known.hello != hello:
        commands.append(Enrol(hello, returns=known is not None))
    if state.stage == "finished":
        return state, [*commands, Send(device, Release(reason="the run is finished"))]
    commands.append(Send(device, _welcome(state)))
    commands += _reassign(state, device)
    return _advance(state, commands, now_ns)


def _no_outsider(state: RoundState, device: str) -> RoundState:
    if device not in state.outsiders:
        return state
    return replace(state, outsiders={d: o for d, o in state.outsiders.items() if d != device})


def _welcome(state: RoundState, unserved: str = "") -> Welcome:
    return Welcome(round_index=state.round_index, heartbeat_s=state.rules.heartbeat_s, unserved=unserved)


def _reassign(state: RoundState, device: str) -> list[Command]:
    """The device's open assignment once more: it may have missed it, or restarted and forgotten what it offered."""
    task = state.tasks.get(device) if state.stage == "open" else None  # one of a round that closes is of no use
    return [Send(device, task.assignment)] if task is not None and task.status in ("assigned", "receiving") else []


def _gone(state: RoundState, gone: Gone) -> Step:
    """The last will of an old session must not mark a device that is back already."""
    member = state.members.get(gone.device)
    if member is None or member.hello.session != gone.session:
        return state, []
    state = replace(state, members={**state.members, gone.device: replace(member, online=False)})
    return state, [Note(f"{gone.device} lost its connection; it stays a member")]


def _leave(state: RoundState, goodbye: Goodbye, now_ns: int) -> Step:
    """A member less, and no answer to wait for; the farewell of an old session is that of a device back already."""
    device, reason = goodbye.device, goodbye.reason or "said goodbye"
    state = _no_outsider(state, device)
    member = state.members.get(device)
    if member is None or member.hello.session != goodbye.session:
        return state, []
    state = replace(state, members={d: m for d, m in state.members.items() if d != device})
    task = state.tasks.get(device)
    if task is None or task.status in ANSWERED:
        return state, [Depart(device, reason)]
    refusal = Refusal(assignment_id=task.assignment.id, device=device, reason=reason)
    state, commands = _refused(state, device, task, now_ns)
    return state, [RecordRefusal(refusal), Depart(device, reason), *commands]


# --- opening and closing ------------------------------------------------------------------------------------------


def _advance(state: RoundState, commands: list[Command], now_ns: int) -> Step:
    """Open or close a round where its condition has come true."""
    if state.stage == "gathering" and len(state.members) >= _members_needed(state):
        return _open(state, commands, tuple(sorted(state.members)))
    if state.stage == "open" and all(t.status in ANSWERED for t in state.tasks.values()):
        return _close_if_quorum(state, commands)
    return state, commands


def _members_needed(state: RoundState) -> int:
    """The first round waits for `devices_min`; a later one for as many as can close it, for members may have gone."""
    return max(1, state.rules.devices_min if state.round_index == 1 else state.rules.quorum)


def _open(state: RoundState, commands: list[Command], devices: tuple[str, ...]) -> Step:
    opening = OpenRound(state.round_index, state.attempt, devices)
    return replace(state, stage="opening"), [*commands, opening]


def _opened(state: RoundState, event: Opened, now_ns: int) -> Step:
    assert state.stage == "opening", "a round is opened on request only"
    # A further attempt is for those it names; the others go on with what they were assigned.
    state = replace(
        state,
        stage="open",
        tasks={**state.tasks, **{a.device: Task(a) for a in event.assignments}},
        update_bytes_max=event.update_bytes_max,
        deadline_ns=now_ns + int(state.rules.deadline_s * SECOND_NS),
    )
    return state, [Send(a.device, a) for a in event.assignments]


def _unservable(state: RoundState, reasons: Mapping[str, str], now_ns: int) -> Step:
    """Those members wait outside until they name other engines; the round is for the others, or waits for more."""
    assert state.stage == "opening", "whether a device can be served is asked when a round is to be opened"
    commands: list[Command] = []
    outside = {}
    for device in sorted(reasons.keys() & state.members.keys()):
        why = reasons[device][:TEXT_BYTES_MAX]
        outside[device] = Outsider(state.members[device].hello.engines, why)
        commands += [Depart(device, why), Send(device, _welcome(state, why))]
    members = {d: m for d, m in state.members.items() if d not in outside}
    state = replace(state, members=members, outsiders={**state.outsiders, **outside})
    if state.attempt:
        return _again(replace(state, stage="open"), commands, now_ns)
    lacking = _members_needed(state) - len(members)
    if lacking > 0:
        text = f"round {state.round_index} waits for {lacking} more; no artifact can be made for {', '.join(outside)}"
        commands.append(Note(text))
    return _advance(replace(state, stage="gathering"), commands, now_ns)


def _close_if_quorum(state: RoundState, commands: list[Command]) -> Step:
    accepted = sum(t.status == "accepted" for t in state.tasks.values())
    if accepted < max(1, state.rules.quorum):
        return state, commands
    pulling, dropped = pulls.drop_all(state.pulls)
    state = replace(state, stage="closing", pulls=pulling)
    return state, [*commands, *dropped, CloseRound(state.round_index)]


def _closed(state: RoundState, now_ns: int) -> Step:
    assert state.stage == "closing", "a round is closed on request only"
    state, commands = _count_missed(state)
    ids = {t.assignment.id for t in state.tasks.values()}
    receipts = {key: r for key, r in state.receipts.items() if key[0] in ids}  # older rounds are late in any case
    state = replace(state, receipts=receipts, round_index=state.round_index + 1, attempt=0, tasks={}, stage="gathering")
    if state.round_index > state.rules.round_count:
        return replace(state, stage="finished"), [*commands, Broadcast(Release(reason="the run is finished"))]
    return _advance(state, commands, now_ns)


def _count_missed(state: RoundState) -> tuple[RoundState, list[Command]]:
    """Members without an answer have missed the round; too many in a row, and they are members no more."""
    commands: list[Command] = []
    members = dict(state.members)
    for device, task in state.tasks.items():
        member = members.get(device)
        if member is None:
            continue
        missed = 0 if task.status in ANSWERED else member.missed + 1
        members[device] = replace(member, missed=missed)
        if missed >= state.rules.missed_max:
            del members[device]
            commands.append(Depart(device, f"missed {missed} rounds in a row"))
    return replace(state, members=members), commands


def _tick(state: RoundState, now_ns: int) -> Step:
    if state.stage != "open":
        return _advance(state, [], now_ns)
    pulling, asked, given_up = pulls.tick(state.pulls, now_ns)
    state, commands = replace(state, pulls=pulling), list[Command](asked)
    for device in given_up:  # to be pulled when it offers again
        state = _set_task(state, device, replace(state.tasks[device], status="assigned"))
    if now_ns < state.deadline_ns:
        return _advance(state, commands, now_ns)  # all may have answered before a restart
    return _deadline(state, commands, now_ns)


def _deadline(state: RoundState, commands: list[Command], now_ns: int) -> Step:
    """Close with quorum; else go on, with a fresh attempt for those whose answer was no."""
    before = state.stage
    state, commands = _close_if_quorum(state, commands)
    if state.stage != before:
        return state, commands
    accepted = sum(t.status == "accepted" for t in state.tasks.values())
    needed = state.rules.quorum
    note = f"round {state.round_index}: {accepted} of {needed} updates needed are here after the deadline; waiting on"
    return _again(state, [*commands, Note(note)], now_ns)


def _again(state: RoundState, commands: list[Command], now_ns: int) -> Step:
    """A fresh attempt for members whose answer was no, and for those who joined since; the others have more time."""
    no = [d for d, t in state.tasks.items() if t.status in ("rejected", "refused") and d in state.members]
    joined = [d for d in state.members if d not in state.tasks]
    if no or joined:
        return _open(replace(state, attempt=state.attempt + 1), commands, tuple(sorted(no + joined)))
    return replace(state, deadline_ns=now_ns + int(state.rules.deadline_s * SECOND_NS)), commands


# --- updates ------------------------------------------------------------------------------------------------------


def _offer(state: RoundState, offer: Offer, now_ns: int) -> Step:
    """Answer from the receipts, or pull the update."""
    device = offer.device
    given = state.receipts.get((offer.assignment_id, offer.update_sha))
    if given is not None:
        return state, [Send(device, given), *_reassign(state, device)]
    task = state.tasks.get(device)
    if state.stage != "open" or task is None or task.assignment.id != offer.assignment_id:
        return state, [Send(device, _receipt(offer, "late", "its round is over")), *_reassign(state, device)]
    if task.status in ANSWERED:
        return state, [Send(device, _receipt(offer, "late", "the assignment was answered before"))]
    if offer.size_bytes > state.update_bytes_max:
        reason = f"{offer.size_bytes} bytes are more than the {state.update_bytes_max} this submodel can need"
        state = _set_task(state, device, replace(task, status="checking", offer=offer))
        state, commands = _pulling(state, pulls.drop(state.pulls, device, now_ns))
        return state, [*commands, RejectUpdate(offer, reason)]
    if task.status == "checking":
        return state, []
    state = _set_task(state, device, replace(task, status="receiving", offer=offer))
    blob = BlobRef(sha=offer.update_sha, size_bytes=offer.size_bytes)
    return _pulling(state, pulls.ask(state.pulls, device, blob, now_ns))


def _pulling(state: RoundState, step: pulls.Step) -> Step:
    return replace(state, pulls=step[0]), list(step[1])


def _chunk(state: RoundState, device: str, chunk: Chunk, now_ns: int) -> Step:
    outcome = pulls.take_in(state.pulls, device, chunk, now_ns)
    state, commands = _pulling(state, (outcome.pulls, outcome.commands))
    if not outcome.whole and not outcome.fault:
        return state, commands
    task = state.tasks[device]
    assert task.offer is not None, "what is pulled was offered"
    if outcome.fault:
        state, more = _spoilt(state, task.offer, outcome.fault)
        return state, [*commands, *more]
    return _set_task(state, device, replace(task, status="checking")), [*commands, CheckUpdate(task.offer)]


def _spoilt(state: RoundState, offer: Offer, reason: str) -> Step:
    """Pulled again when it is offered again, not at once: a broken peer must not make us loop."""
    task = state.tasks.get(offer.device)
    if task is None or task.offer != offer or task.status in ANSWERED:
        return state, []
    note = Note(f"{offer.device}: {reason}; to be pulled again when it is offered again")
    return _set_task(state, offer.device, replace(task, status="assigned")), [note]


def _checked(state: RoundState, event: Checked) -> tuple[RoundState, list[Command]]:
    """The verdict is on disk: say it."""
    receipt = event.receipt
    key = (receipt.assignment_id, receipt.update_sha)
    state = replace(state, receipts={**state.receipts, key: receipt})
    task = state.tasks.get(event.device)
    if task is not None and task.assignment.id == receipt.assignment_id:
        status: TaskStatus = "accepted" if receipt.verdict == "accepted" else "rejected"
        state = _set_task(state, event.device, replace(task, status=status))
    return state, [Send(event.device, receipt)]


def _refusal(state: RoundState, refusal: Refusal, now_ns: int) -> Step:
    task = state.tasks.get(refusal.device)
    if task is None or task.assignment.id != refusal.assignment_id or task.status in ANSWERED:
        return state, []
    note = Note(f"{refusal.device} cannot carry out its assignment: {refusal.reason}")
    state, commands = _refused(state, refusal.device, task, now_ns)
    return state, [RecordRefusal(refusal), note, *commands]


def _refused(state: RoundState, device: str, task: Task, now_ns: int) -> Step:
    """The answer is no, and nothing is pulled for it any more."""
    state = _set_task(state, device, replace(task, status="refused"))
    return _pulling(state, pulls.drop(state.pulls, device, now_ns))


def _set_task(state: RoundState, device: str, task: Task) -> RoundState:
    return replace(state, tasks={**state.tasks, device: task})


def _receipt(offer: Offer, verdict: Verdict, reason: str) -> Receipt:
    return Receipt(assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason)
