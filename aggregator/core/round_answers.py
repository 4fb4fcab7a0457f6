"""What devices answer to their assignments, as steps of the round machine: offers, chunks, verdicts, refusals."""

from dataclasses import replace

from aggregator.core import pulls
from aggregator.core.round_events import (
    Checked,
    CheckUpdate,
    Command,
    Note,
    RecordRefusal,
    RejectUpdate,
    Send,
)
from aggregator.core.round_state import ANSWERED, RoundState, Step, Task, TaskStatus, set_task
from device_runtime.wire.messages import BlobRef, Chunk, Offer, Receipt, Refusal, Verdict


def reassign(state: RoundState, device: str) -> list[Command]:
    """The device's open assignment once more: it may have missed it, or restarted and forgotten what it offered."""
    task = state.tasks.get(device) if state.stage == "open" else None  # one of a round that closes is of no use
    return [Send(device, task.assignment)] if task is not None and task.status in ("assigned", "receiving") else []


def offer_came(state: RoundState, offer: Offer, now_ns: int) -> Step:
    """Answer from the receipts, or pull the update."""
    device = offer.device
    given = state.receipts.get((offer.assignment_id, offer.update_sha))
    if given is not None:
        return state, [Send(device, given), *reassign(state, device)]
    task = state.tasks.get(device)
    if state.stage != "open" or task is None or task.assignment.id != offer.assignment_id:
        return state, [Send(device, _receipt(offer, "late", "its round is over")), *reassign(state, device)]
    if task.status in ANSWERED:
        return state, [Send(device, _receipt(offer, "late", "the assignment was answered before"))]
    if reason := _unfit(state, offer):
        state = set_task(state, device, replace(task, status="checking", offer=offer))
        state, commands = _pulling(state, pulls.drop(state.pulls, device, now_ns))
        return state, [*commands, RejectUpdate(offer, reason)]
    if task.status == "checking":
        return state, []
    state = set_task(state, device, replace(task, status="receiving", offer=offer))
    blob = BlobRef(sha=offer.update_sha, size_bytes=offer.size_bytes)
    return _pulling(state, pulls.ask(state.pulls, device, blob, now_ns))


def _unfit(state: RoundState, offer: Offer) -> str:
    """Why an update is refused unseen, in words; "" where it is worth pulling."""
    if offer.size_bytes > state.update_bytes_max:
        return f"{offer.size_bytes} bytes are more than the {state.update_bytes_max} this submodel can need"
    member = state.members.get(offer.device)
    if member is not None and offer.sample_count != member.hello.sample_count:
        return f"the offer counts {offer.sample_count} samples and the device's hello {member.hello.sample_count}"
    return ""


def _pulling(state: RoundState, step: pulls.Step) -> Step:
    return replace(state, pulls=step[0]), list(step[1])


def chunk_came(state: RoundState, device: str, chunk: Chunk, now_ns: int) -> Step:
    """Write it, and with the last one have the update checked."""
    outcome = pulls.take_in(state.pulls, device, chunk, now_ns)
    state, commands = _pulling(state, (outcome.pulls, outcome.commands))
    if not outcome.whole and not outcome.fault:
        return state, commands
    task = state.tasks[device]
    assert task.offer is not None, "what is pulled was offered"
    if outcome.fault:
        state, more = spoilt(state, task.offer, outcome.fault)
        return state, [*commands, *more]
    return set_task(state, device, replace(task, status="checking")), [*commands, CheckUpdate(task.offer)]


def spoilt(state: RoundState, offer: Offer, reason: str) -> Step:
    """Pulled again when it is offered again, not at once: a broken peer must not make us loop."""
    task = state.tasks.get(offer.device)
    if task is None or task.offer != offer or task.status in ANSWERED:
        return state, []
    note = Note(f"{offer.device}: {reason}; to be pulled again when it is offered again")
    return set_task(state, offer.device, replace(task, status="assigned")), [note]


def checked(state: RoundState, event: Checked) -> Step:
    """The verdict is on disk: say it."""
    receipt = event.receipt
    key = (receipt.assignment_id, receipt.update_sha)
    state = replace(state, receipts=state.receipts.plus(key, receipt))
    task = state.tasks.get(event.device)
    if task is not None and task.assignment.id == receipt.assignment_id:
        status: TaskStatus = "accepted" if receipt.verdict == "accepted" else "rejected"
        state = set_task(state, event.device, replace(task, status=status))
    return state, [Send(event.device, receipt)]


def refusal_came(state: RoundState, refusal: Refusal, now_ns: int) -> Step:
    """A no is an answer too, if none was given before."""
    task = state.tasks.get(refusal.device)
    if task is None or task.assignment.id != refusal.assignment_id or task.status in ANSWERED:
        return state, []
    note = Note(f"{refusal.device} cannot carry out its assignment: {refusal.reason}")
    state, commands = refused(state, refusal.device, task, now_ns)
    return state, [RecordRefusal(refusal), note, *commands]


def refused(state: RoundState, device: str, task: Task, now_ns: int) -> Step:
    """The answer is no, and nothing is pulled for it any more."""
    state = set_task(state, device, replace(task, status="refused"))
    return _pulling(state, pulls.drop(state.pulls, device, now_ns))


def pulls_over_time(state: RoundState, now_ns: int) -> Step:
    """Time passed for what is pulled: ask again, or give up."""
    pulling, asked, given_up = pulls.tick(state.pulls, now_ns)
    state = replace(state, pulls=pulling)
    for device in given_up:  # to be pulled when it offers again
        state = set_task(state, device, replace(state.tasks[device], status="assigned"))
    return state, list(asked)


def _receipt(offer: Offer, verdict: Verdict, reason: str) -> Receipt:
    return Receipt(assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason)
