"""The agent's transitions as a table, and what holds for every conversation (`tests/transcripts` has whole ones)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime import agent
from device_runtime.agent import (
    AgentState,
    Assigned,
    Connected,
    Disconnected,
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
    step,
)
from device_runtime.wire import limits
from device_runtime.wire.messages import Assignment, Get, Hello, Offer, Receipt, Refusal, Release, RollCall, Welcome
from device_runtime.wire.support import sha256_hex
from tests import fakes
from tests.fakes import QUICK, cut_chunk
from tests.golden.values import MESSAGES

A, B = fakes.assignment(), fakes.assignment(round_index=2)
BLOB = b"blob"
SHA = sha256_hex(BLOB)
OFFER = fakes.offer(A)
RECEIPT = Receipt(assignment_id=A.id, update_sha=OFFER.update_sha, verdict="accepted")
FUTURE = 10**15


def after(*events: agent.Event) -> AgentState:
    """The state that these events lead to."""
    state = AgentState(hello=fakes.hello(), leave_when_released=True)
    for event in events:
        state, _ = step(state, event, 0)
    return state


WELCOME = Received(Welcome(round_index=1, heartbeat_s=30.0))
UNSERVED = Received(Welcome(round_index=1, heartbeat_s=30.0, unserved="engine 'nope' is unknown here."))
STATES = {
    "offline": after(),
    "greeting": after(Connected()),
    "waiting": after(Connected(), WELCOME),
    "fetching": after(Connected(), WELCOME, Assigned(A, (SHA,), None)),
    "training": after(Connected(), WELCOME, Assigned(A, (), None)),
    "offering": after(Connected(), WELCOME, Assigned(A, (), None), Trained(OFFER, b"update")),
}


def kinds(commands: list[agent.Command]) -> list[str]:
    """Commands by name, published messages by theirs."""
    return [type(c.message).__name__ if isinstance(c, Publish) else type(c).__name__ for c in commands]


TABLE = [
    # from        event                                          to          commands
    ("offline", Connected(), "greeting", ["Hello"]),
    ("offline", Tick(), "offline", []),
    ("greeting", WELCOME, "waiting", []),
    ("greeting", UNSERVED, "waiting", ["Warn"]),
    ("training", UNSERVED, "training", ["Warn"]),
    ("greeting", Connected(), "greeting", ["Hello"]),
    ("greeting", Assigned(A, (), None), "training", ["Train"]),
    ("waiting", Assigned(A, (SHA,), None), "fetching", ["Get"]),
    ("waiting", Assigned(A, (), None), "training", ["Train"]),
    ("waiting", Assigned(A, (), OFFER), "offering", ["Offer"]),
    ("waiting", Received(RollCall(session="a2")), "waiting", ["Hello"]),
    ("waiting", Received(Release()), "waiting", ["Leave"]),
    ("waiting", Received(Get(sha=SHA, indices=(0,))), "waiting", ["Serve"]),
    ("waiting", Received(RECEIPT), "waiting", ["Unspool"]),
    ("fetching", Assigned(A, (SHA,), None), "fetching", []),
    ("fetching", Assigned(B, (), None), "training", ["Train"]),
    ("fetching", Received(cut_chunk(BLOB, SHA, 0)), "training", ["StoreBlob", "Train"]),
    ("fetching", Received(cut_chunk(b"lies", SHA, 0)), "fetching", []),
    ("fetching", Received(cut_chunk(BLOB, fakes.sha("other"), 0)), "fetching", []),
    ("fetching", Connected(), "fetching", ["Hello", "Get"]),
    ("fetching", WELCOME, "fetching", []),
    ("training", Assigned(A, (), None), "training", []),
    ("training", Assigned(B, (), None), "training", []),
    ("training", Assigned(B, (), fakes.offer(B)), "training", []),
    ("training", Trained(OFFER, b"update"), "offering", ["SpoolUpdate", "Offer"]),
    ("training", TrainingFailed(A.id, "no memory"), "waiting", ["Refusal"]),
    ("waiting", Unreadable(B.id, "unknown field"), "waiting", ["Refusal"]),
    ("training", Unreadable(B.id, "unknown field"), "training", ["Refusal"]),
    ("offering", Unreadable(B.id, "unknown field"), "offering", ["Refusal"]),
    ("training", Connected(), "training", ["Hello"]),
    ("training", Received(RECEIPT), "training", ["Unspool"]),
    ("offering", Received(Get(sha=OFFER.update_sha, indices=(0,))), "offering", ["Serve"]),
    ("offering", Received(RECEIPT), "waiting", ["Unspool"]),
    ("offering", Assigned(A, (), OFFER), "offering", []),
    ("offering", Assigned(B, (), None), "training", ["Train"]),
    ("offering", Connected(), "offering", ["Hello", "Offer"]),
    ("offering", Disconnected(), "offering", []),
]


@pytest.mark.parametrize(("before", "event", "activity", "commands"), TABLE)
def test_transition(before, event, activity, commands):
    state, issued = step(STATES[before], event, 1)
    assert (state.activity, kinds(issued)) == (activity, commands)


@pytest.mark.parametrize(("activity", "retried"), [("fetching", Get), ("offering", Offer)])
def test_what_met_silence_is_said_again_after_a_while(activity, retried):
    state, commands = step(STATES[activity], Tick(), agent.SILENCE_NS - 1)
    assert commands == []
    state, commands = step(state, Tick(), agent.SILENCE_NS)
    assert [type(c.message) for c in commands if isinstance(c, Publish)] == [retried]
    _, commands = step(state, Tick(), agent.SILENCE_NS + 1)
    assert commands == []


def test_that_it_is_unserved_is_said_once_and_again_when_it_comes_to_be_so_again():
    state, said = STATES["waiting"], []
    for event in (UNSERVED, UNSERVED, WELCOME, UNSERVED):
        state, commands = step(state, event, 1)
        said.append(commands)
    text = "the aggregator waits for another engine of this device: engine 'nope' is unknown here."
    assert said == [[agent.Warn(text)], [], [], [agent.Warn(text)]]


def test_a_heartbeat_is_said_as_often_as_the_aggregator_wants():
    said = []
    state = STATES["waiting"]
    for second in range(100):
        state, commands = step(state, Tick(), second * agent.SECOND_NS)
        said += [second for c in commands if isinstance(c, Publish) and isinstance(c.message, Hello)]
    assert said == [30, 60, 90]


def test_nothing_is_said_while_the_link_is_down():
    for state in STATES.values():
        down, _ = step(state, Disconnected(), 0)
        assert step(down, Tick(), FUTURE) == (down, [])


def test_several_blobs_are_pulled_one_after_the_other():
    other = b"x" * (limits.CHUNK_BYTES_MAX + 1)
    state, _ = step(STATES["waiting"], Assigned(A, (SHA, sha256_hex(other)), None), 0)
    state, commands = step(state, Received(cut_chunk(BLOB, SHA, 0)), 0)
    assert kinds(commands) == ["StoreBlob", "Get"]
    state, commands = step(state, Received(cut_chunk(other, sha256_hex(other), 1)), 0)
    assert (state.activity, kinds(commands)) == ("fetching", [])
    state, commands = step(state, Received(cut_chunk(other, sha256_hex(other), 0)), 0)
    assert commands == [StoreBlob(sha256_hex(other), other), Train(A)]


def test_a_device_that_is_to_stay_does_not_leave_when_released():
    state = replace(STATES["waiting"], leave_when_released=False)
    assert step(state, Received(Release()), 0) == (state, [])


def test_a_receipt_of_another_update_does_not_end_the_offering():
    other = Receipt(assignment_id=A.id, update_sha=fakes.sha("other"), verdict="late")
    state, commands = step(STATES["offering"], Received(other), 0)
    assert (state.activity, state.offer, commands) == ("offering", OFFER, [Unspool(other)])


@pytest.mark.parametrize(
    "activity", ["waiting", "offering"]
)  # waiting: offered in an earlier life, served from the spool
def test_an_answered_assignment_is_not_carried_out_again(activity):
    state, _ = step(STATES[activity], Received(RECEIPT), 0)
    assert step(state, Assigned(A, (), None), 0) == (state, [])
    assert step(state, Assigned(B, (), None), 0)[1] == [Train(B)]


@pytest.mark.parametrize("activity", ["fetching", "offering"])
def test_an_expired_assignment_is_given_up_and_asked_about(activity):
    expiry = int(A.ttl_s * agent.SECOND_NS)
    assert step(STATES[activity], Tick(), expiry - 1)[0].activity == activity
    state, commands = step(STATES[activity], Tick(), expiry)
    assert (state.activity, kinds(commands)) == ("waiting", ["Hello"])


def test_a_training_is_never_given_up_half_way():
    assert step(STATES["training"], Tick(), FUTURE)[0].activity == "training"


def test_a_reason_longer_than_the_wire_takes_is_cut():
    _, commands = step(STATES["training"], TrainingFailed(A.id, "x" * 5000), 0)
    refusal = commands[0].message
    assert isinstance(refusal, Refusal)
    assert len(refusal.reason) == limits.TEXT_BYTES_MAX


MESSAGE_EVENTS = st.sampled_from(
    [Received(m) for m in MESSAGES.values() if not isinstance(m, Assignment)]
    + [Received(cut_chunk(BLOB, SHA, 0)), Received(cut_chunk(b"lies", SHA, 0)), Received(RECEIPT), WELCOME]
    + [Received(Receipt(assignment_id=B.id, update_sha=fakes.offer(B).update_sha, verdict="late"))]
)
EVENTS = st.one_of(
    MESSAGE_EVENTS,
    st.sampled_from([Connected(), Disconnected(), Tick()]),
    st.builds(
        Assigned, st.sampled_from([A, B]), st.sampled_from([(), (SHA,)]), st.sampled_from([None, OFFER, fakes.offer(B)])
    ),
    st.just("worker"),
)


@QUICK
@given(st.lists(st.tuples(EVENTS, st.integers(0, 40))), st.booleans())
def test_in_every_conversation(events, fails):
    """Nothing a peer says raises; at most one training runs; what is offered was spooled."""
    state, now, running, spooled = AgentState(hello=fakes.hello()), 0, None, {OFFER, fakes.offer(B)}
    for event, seconds in events:
        now += seconds * agent.SECOND_NS
        if event == "worker":
            if running is None:
                continue
            event, running = (
                (TrainingFailed(running.id, "no") if fails else Trained(fakes.offer(running, b"new"), b"new")),
                None,
            )
        state, commands = step(state, event, now)
        for command in commands:
            match command:
                case Train(assignment):
                    assert running is None
                    running = assignment
                case SpoolUpdate(offer, _):
                    spooled.add(offer)
                case Publish(Offer() as offer):
                    assert offer in spooled
                case Publish(Get() as get):
                    assert state.download is not None
                    assert get.sha == state.download.sha
                case Publish(message):
                    assert isinstance(message, Hello | Refusal)
                case _:
                    assert isinstance(command, StoreBlob | Serve | Unspool | Leave)
        assert (state.activity == "training") == (running is not None)


@pytest.mark.parametrize(("sha", "is_pulled"), [(OFFER.update_sha, True), (SHA, False)], ids=["update", "profile"])
def test_only_a_pull_of_the_update_says_that_the_offer_was_heard(sha, is_pulled):
    before = replace(STATES["offering"], retry_due_ns=5)
    get = Get(sha=sha, indices=(0,))
    state, commands = step(before, Received(get), 1)
    assert commands == [Serve(get)]
    assert (state.retry_due_ns > 5) == is_pulled
