"""Who takes part, as steps of the round machine: hellos, farewells, broken connections, and who waits outside."""

from collections.abc import Mapping
from dataclasses import replace

from aggregator.core.round_answers import reassign, refused
from aggregator.core.round_events import Command, Depart, Enrol, Note, RecordRefusal, Send
from aggregator.core.round_state import ANSWERED, Member, Outsider, RoundState, Step
from aggregator.core.table import Table
from device_runtime.wire.limits import DEVICE_COUNT_MAX, TEXT_BYTES_MAX
from device_runtime.wire.messages import Gone, Goodbye, Hello, Refusal, Release, Welcome


def hello_came(state: RoundState, hello: Hello) -> Step:
    """A member, new or back; one for which no artifact can be made hears so until it names other engines."""
    device = hello.device
    known, outsider = state.members.get(device), state.outsiders.get(device)
    if outsider is not None and outsider.engines == hello.engines and state.stage != "finished":
        return state, [Send(device, _welcome(state, outsider.why))]
    state = replace(state, outsiders=state.outsiders.minus(device))
    if known is None and len(state.members) + len(state.outsiders) >= DEVICE_COUNT_MAX:
        return state, [Note(f"{device} is not taken in: there are {DEVICE_COUNT_MAX} devices already")]
    member = Member(hello) if known is None else replace(known, hello=hello, online=True)
    state = replace(state, members=state.members.plus(device, member))
    commands: list[Command] = []
    if known is None or known.hello != hello:
        commands.append(Enrol(hello, returns=known is not None))
    if known is not None and known.hello.sample_count != hello.sample_count:
        counts = f"{hello.sample_count} samples, {known.hello.sample_count} before"
        commands.append(Note(f"{device} says that it has {counts}"))
    if state.stage == "finished":
        return state, [*commands, Send(device, Release(reason="the run is finished"))]
    commands.append(Send(device, _welcome(state)))
    return state, [*commands, *reassign(state, device)]


def _welcome(state: RoundState, unserved: str = "") -> Welcome:
    return Welcome(round_index=state.round_index, heartbeat_s=state.rules.heartbeat_s, unserved=unserved)


def gone_came(state: RoundState, gone: Gone) -> Step:
    """The last will of an old session must not mark a device that is back already."""
    member = state.members.get(gone.device)
    if member is None or member.hello.session != gone.session:
        return state, []
    state = replace(state, members=state.members.plus(gone.device, replace(member, online=False)))
    return state, [Note(f"{gone.device} lost its connection; it stays a member")]


def goodbye_came(state: RoundState, goodbye: Goodbye, now_ns: int) -> Step:
    """A member less, and no answer to wait for; the farewell of an old session is that of a device back already."""
    device, reason = goodbye.device, goodbye.reason or "said goodbye"
    state = replace(state, outsiders=state.outsiders.minus(device))
    member = state.members.get(device)
    if member is None or member.hello.session != goodbye.session:
        return state, []
    state = replace(state, members=state.members.minus(device))
    task = state.tasks.get(device)
    if task is None or task.status in ANSWERED:
        return state, [Depart(device, reason)]
    refusal = Refusal(assignment_id=task.assignment.id, device=device, reason=reason)
    state, commands = refused(state, device, task, now_ns)
    return state, [RecordRefusal(refusal), Depart(device, reason), *commands]


def put_outside(state: RoundState, reasons: Mapping[str, str]) -> Step:
    """No artifact can be made for these members: they wait outside until they name other engines."""
    commands: list[Command] = []
    for device in sorted(reasons.keys() & state.members.keys()):
        why = reasons[device][:TEXT_BYTES_MAX]
        outsider = Outsider(state.members[device].hello.engines, why)
        commands += [Depart(device, why), Send(device, _welcome(state, why))]
        state = replace(state, members=state.members.minus(device), outsiders=state.outsiders.plus(device, outsider))
    return state, commands


def count_missed(state: RoundState) -> Step:
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
    return replace(state, members=Table(members)), commands
