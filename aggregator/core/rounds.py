"""The round as a pure state machine: who is here, what each was assigned, what came back, when the round closes.

    gathering --enough members--> opening --Opened--> open --all answered, or deadline with quorum--> closing
        ^                                                                                               |
        +--------------------------- Closed, more rounds to go -----------------------------------------+--> finished

A device becomes a member by its hello and stays one while its connection is merely broken: it leaves by a goodbye, by
missing `missed_max` rounds in a row, or when no artifact can be made for it: then it waits outside until it names other
engines. So a device that is killed and restarted takes part in the same rounds as if nothing had happened, and the run
ends with the same bits. Commands come in the order the shell must carry them out.
"""

from collections.abc import Mapping
from dataclasses import replace

from aggregator.core import pulls
from aggregator.core.round_answers import (
    checked,
    chunk_came,
    offer_came,
    pulls_over_time,
    refusal_came,
    spoilt,
)
from aggregator.core.round_events import (
    Broadcast,
    Checked,
    Closed,
    CloseRound,
    Command,
    Event,
    Heard,
    Note,
    Opened,
    OpenRound,
    Send,
    Serve,
    Spoilt,
    Tick,
    Unservable,
)
from aggregator.core.round_members import count_missed, gone_came, goodbye_came, hello_came, put_outside
from aggregator.core.round_state import ANSWERED, SECOND_NS, RoundState, Step, Task, Tasks, set_task
from aggregator.core.table import Table
from device_runtime.wire.messages import Chunk, Get, Gone, Goodbye, Hello, Message, Offer, Refusal, Release


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
            return _advance(*checked(state, event), now_ns)
        case Spoilt(offer, reason):
            return spoilt(state, offer, reason)
        case Closed():
            return _closed(state, now_ns)
        case Tick():
            return _tick(state, now_ns)


def _heard(state: RoundState, device: str, message: Message, now_ns: int) -> Step:
    match message:
        case Hello() if message.device == device:
            return _advance(*hello_came(state, message), now_ns)
        case Goodbye() if message.device == device:
            return _advance(*goodbye_came(state, message, now_ns), now_ns)
        case Gone() if message.device == device:
            return gone_came(state, message)
        case Get():
            return state, [Serve(device, message)]
        case Chunk():
            return chunk_came(state, device, message, now_ns)
        case Offer() if message.device == device:
            return offer_came(state, message, now_ns)
        case Refusal() if message.device == device:
            return _advance(*refusal_came(state, message, now_ns), now_ns)
        case _:
            return state, [Note(f"{device} sent a {type(message).__name__} that is not its to send; ignored")]


def _advance(state: RoundState, commands: list[Command], now_ns: int) -> Step:
    """Open or close a round where its condition has come true."""
    if state.stage == "gathering" and len(state.members) >= _members_needed(state):
        return _open(state, commands, tuple(sorted(state.members)))
    if state.stage == "open" and state.tasks.count(*ANSWERED) == len(state.tasks):
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
    for assignment in event.assignments:
        state = set_task(state, assignment.device, Task(assignment))
    state = replace(
        state,
        stage="open",
        update_bytes_max=event.update_bytes_max,
        deadline_ns=now_ns + int(state.rules.deadline_s * SECOND_NS),
    )
    return state, [Send(a.device, a) for a in event.assignments]


def _unservable(state: RoundState, reasons: Mapping[str, str], now_ns: int) -> Step:
    """Those members wait outside until they name other engines; the round is for the others, or waits for more."""
    assert state.stage == "opening", "whether a device can be served is asked when a round is to be opened"
    state, commands = put_outside(state, reasons)
    if state.attempt:
        return _again(replace(state, stage="open"), commands, now_ns)
    lacking = _members_needed(state) - len(state.members)
    if lacking > 0:
        unserved = ", ".join(sorted(reasons))
        text = f"round {state.round_index} waits for {lacking} more; no artifact can be made for {unserved}"
        commands.append(Note(text))
    return _advance(replace(state, stage="gathering"), commands, now_ns)


def _close_if_quorum(state: RoundState, commands: list[Command]) -> Step:
    if state.tasks.count("accepted") < max(1, state.rules.quorum):
        return state, commands
    pulling, dropped = pulls.drop_all(state.pulls)
    state = replace(state, stage="closing", pulls=pulling)
    return state, [*commands, *dropped, CloseRound(state.round_index)]


def _closed(state: RoundState, now_ns: int) -> Step:
    assert state.stage == "closing", "a round is closed on request only"
    state, commands = count_missed(state)
    ids = {t.assignment.id for t in state.tasks.values()}
    receipts = Table({key: r for key, r in state.receipts.items() if key[0] in ids})  # what is older is late anyway
    state = replace(
        state, receipts=receipts, round_index=state.round_index + 1, attempt=0, tasks=Tasks(), stage="gathering"
    )
    if state.round_index > state.rules.round_count:
        return replace(state, stage="finished"), [*commands, Broadcast(Release(reason="the run is finished"))]
    return _advance(state, commands, now_ns)


def _tick(state: RoundState, now_ns: int) -> Step:
    if state.stage != "open":
        return _advance(state, [], now_ns)
    state, commands = pulls_over_time(state, now_ns)
    if now_ns < state.deadline_ns:
        return _advance(state, commands, now_ns)  # all may have answered before a restart
    return _deadline(state, commands, now_ns)


def _deadline(state: RoundState, commands: list[Command], now_ns: int) -> Step:
    """Close with quorum; else go on, with a fresh attempt for those whose answer was no."""
    before = state.stage
    state, commands = _close_if_quorum(state, commands)
    if state.stage != before:
        return state, commands
    accepted = state.tasks.count("accepted")
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
