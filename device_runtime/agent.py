"""The device's round as a pure state machine: `step(state, event) -> (state, commands)`.

    offline --Connected--> greeting --Welcome/Assigned--> waiting --Assigned--> fetching --> training --> offering
                                                             ^                                              |
                                                             +------------------- Receipt ------------------+

A device remembers one thing across restarts, the spooled offer of an update not yet receipted; everything else is
told to it again. Commands come in the order in which the shell must carry them out: Persist precedes Publish.
"""

from dataclasses import dataclass, replace
from typing import Literal

from device_runtime.agent_events import (
    Assigned,
    Command,
    Connected,
    Disconnected,
    Event,
    Leave,
    Publish,
    Received,
    Serve,
    SpoolUpdate,
    StoreBlob,
    Tick,
    Train,
    Trained,
    TrainingFailed,
    Unreadable,
    Unspool,
    Warn,
)
from device_runtime.wire import limits, transfer
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import (
    Assignment,
    Chunk,
    Get,
    Hello,
    Message,
    Offer,
    Receipt,
    Refusal,
    Release,
    RollCall,
    Welcome,
)
from device_runtime.wire.transfer import Download

SECOND_NS = 1_000_000_000
HELLO_RETRY_NS = 2 * SECOND_NS
SILENCE_NS = 3 * SECOND_NS

Activity = Literal["offline", "greeting", "waiting", "fetching", "training", "offering"]


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the agent knows. Times are of the device's monotonic clock, in nanoseconds."""

    hello: Hello
    activity: Activity = "offline"
    connected: bool = False
    assignment: Assignment | None = None
    lacking: tuple[str, ...] = ()
    download: Download | None = None
    offer: Offer | None = None
    heartbeat_ns: int = HELLO_RETRY_NS
    hello_due_ns: int = 0
    retry_due_ns: int = 0
    expires_ns: int = 0
    answered: str = ""  # the last assignment that was receipted
    unserved: str = ""  # why the aggregator has no artifact for this device
    leave_when_released: bool = False


Step = tuple[AgentState, list[Command]]


def step(state: AgentState, event: Event, now_ns: int) -> Step:
    """The next state and what to do, in order. Never raises for anything a peer can cause."""
    match event:
        case Connected():
            return _connected(replace(state, connected=True), now_ns)
        case Disconnected():
            return replace(state, connected=False), []
        case Assigned():
            return _assigned(state, event, now_ns)
        case Trained():
            return _trained(state, event, now_ns)
        case TrainingFailed():
            return _training_failed(state, event)
        case Unreadable(assignment_id, reason):
            return state, [_refuse(state, assignment_id, reason)]
        case Tick():
            return _tick(state, now_ns)
        case Received(message):
            return _received(state, message, now_ns)


def _connected(state: AgentState, now_ns: int) -> Step:
    """Say hello, and take up again what the broken connection interrupted."""
    activity: Activity = "greeting" if state.activity == "offline" else state.activity
    state = replace(state, activity=activity, hello_due_ns=now_ns + HELLO_RETRY_NS, heartbeat_ns=HELLO_RETRY_NS)
    state, commands = _retry(state, now_ns)
    return state, [Publish(state.hello), *commands]


def _received(state: AgentState, message: Message, now_ns: int) -> Step:
    match message:
        case Welcome():
            return _welcome(state, message, now_ns)
        case RollCall():
            return replace(state, hello_due_ns=now_ns + HELLO_RETRY_NS), [Publish(state.hello)]
        case Chunk():
            return _chunk(state, message, now_ns)
        case Get():
            # Whoever pulls the update has heard the offer; a pull of the profile says nothing of it.
            pulled = state.offer is not None and message.sha == state.offer.update_sha
            return replace(state, retry_due_ns=now_ns + SILENCE_NS) if pulled else state, [Serve(message)]
        case Receipt():
            return _receipt(state, message)
        case Release():
            leaving = state.leave_when_released
            return state, [Leave(message.reason or "the run is over")] if leaving else []
        case _:
            return state, []


def _welcome(state: AgentState, welcome: Welcome, now_ns: int) -> Step:
    heartbeat_ns = int(welcome.heartbeat_s * SECOND_NS)
    activity: Activity = "waiting" if state.activity == "greeting" else state.activity
    before = state.unserved
    state = replace(
        state, activity=activity, heartbeat_ns=heartbeat_ns, hello_due_ns=now_ns + heartbeat_ns,
        unserved=welcome.unserved,
    )  # fmt: skip
    if welcome.unserved in ("", before):  # every heartbeat is answered with it
        return state, []
    return state, [Warn(f"the aggregator waits for another engine of this device: {welcome.unserved}")]


def _assigned(state: AgentState, event: Assigned, now_ns: int) -> Step:
    """Start, go on or answer from the spool; a repeated assignment changes nothing."""
    assignment = event.assignment
    if state.activity == "training" or assignment.id == state.answered:
        # A running training cannot be interrupted half way through a step; its result will be told as late.
        return state, []
    same = state.assignment is not None and state.assignment.id == assignment.id
    if same and state.activity in ("fetching", "offering"):
        return state, []
    expires_ns = now_ns + int(assignment.ttl_s * SECOND_NS)
    state = replace(state, assignment=assignment, expires_ns=expires_ns, download=None, offer=event.spooled)
    if event.spooled is not None:
        return _retry(replace(state, activity="offering"), now_ns)
    return _fetch_next(replace(state, activity="fetching", lacking=event.lacking), now_ns)


def _fetch_next(state: AgentState, now_ns: int) -> Step:
    """Pull the next blob that is lacking, or train when none is."""
    assert state.assignment is not None
    if not state.lacking:
        return replace(state, activity="training", download=None), [Train(state.assignment)]
    download, get = transfer.request(Download(state.lacking[0], limits.BLOB_BYTES_MAX))
    assert get is not None
    return replace(state, download=download, retry_due_ns=now_ns + SILENCE_NS), [Publish(get)]


def _chunk(state: AgentState, chunk: Chunk, now_ns: int) -> Step:
    if state.download is None or chunk.sha != state.download.sha:
        return state, []
    try:
        download = transfer.accept(state.download, chunk)
        data = transfer.assemble(download) if download.complete else None
    except RemoteWireError:
        # Start this blob again after the silence, not at once: a broken peer must not make us loop.
        fresh = Download(state.download.sha, limits.BLOB_BYTES_MAX)
        return replace(state, download=fresh, retry_due_ns=now_ns + SILENCE_NS), []
    if data is None:
        download, get = transfer.request(download)
        state = replace(state, download=download, retry_due_ns=now_ns + SILENCE_NS)
        return state, [Publish(get)] if get else []
    state, commands = _fetch_next(replace(state, lacking=state.lacking[1:]), now_ns)
    return state, [StoreBlob(download.sha, data), *commands]


def _trained(state: AgentState, event: Trained, now_ns: int) -> Step:
    state = replace(state, activity="offering", offer=event.offer, retry_due_ns=now_ns + SILENCE_NS)
    return state, [SpoolUpdate(event.offer, event.update), Publish(event.offer)]


def _training_failed(state: AgentState, event: TrainingFailed) -> Step:
    return replace(state, activity="waiting", offer=None), [_refuse(state, event.assignment_id, event.reason)]


def _refuse(state: AgentState, assignment_id: str, reason: str) -> Publish:
    refusal = Refusal(assignment_id=assignment_id, device=state.hello.device, reason=reason[: limits.TEXT_BYTES_MAX])
    return Publish(refusal)


def _receipt(state: AgentState, receipt: Receipt) -> Step:
    """The last word on an assignment, which may have been answered in an earlier life of this process."""
    commands: list[Command] = [Unspool(receipt)]
    state = replace(state, answered=receipt.assignment_id)
    if state.offer is None or receipt.update_sha != state.offer.update_sha:
        return state, commands
    return replace(state, activity="waiting", offer=None), commands


def _tick(state: AgentState, now_ns: int) -> Step:
    if not state.connected:
        return state, []
    if state.activity in ("fetching", "offering") and state.expires_ns and now_ns >= state.expires_ns:
        # The aggregator gave this assignment up long ago; a new hello brings whatever it wants now.
        state = replace(state, activity="waiting", download=None, offer=None, expires_ns=0, hello_due_ns=now_ns)
    commands: list[Command] = []
    if now_ns >= state.hello_due_ns:
        state = replace(state, hello_due_ns=now_ns + state.heartbeat_ns)
        commands.append(Publish(state.hello))
    if now_ns >= state.retry_due_ns:
        state, more = _retry(state, now_ns)
        commands += more
    return state, commands


def _retry(state: AgentState, now_ns: int) -> Step:
    """Ask or offer again what has met silence."""
    state = replace(state, retry_due_ns=now_ns + SILENCE_NS)
    if state.activity == "fetching" and state.download is not None:
        download, get = transfer.retry(state.download)
        return replace(state, download=download), [Publish(get)] if get else []
    if state.activity == "offering" and state.offer is not None:
        return state, [Publish(state.offer)]
    return state, []
