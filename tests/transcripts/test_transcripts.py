"""The conversations of `rounds/` and `agent/` go as they are written there; `ESPALIER_RECORD=1` writes them anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.core.round_state import RoundState, Task, Tasks
from device_runtime import agent
from device_runtime.wire.messages import Get, Goodbye, Receipt, Refusal, Release, RollCall
from device_runtime.wire.support import sha256_hex
from tests import fakes
from tests.fakes import cut_chunk
from tests.transcripts.talk import KNOWN, AgentTalk, RoundTalk, Talk

HERE = Path(__file__).parent
UPDATE = b"update"
PARAMS = b"parameters of round 1"
KNOWN[sha256_hex(UPDATE)] = "update"
KNOWN[sha256_hex(b"another")] = "another"
KNOWN[sha256_hex(PARAMS)] = "params"


def receipt(of, verdict, reason="", data=UPDATE) -> Receipt:
    return Receipt(assignment_id=of.id, update_sha=sha256_hex(data), verdict=verdict, reason=reason)


# --- the round machine ---------------------------------------------------------------------------------------------


def two_devices(**rules) -> RoundTalk:
    talk = RoundTalk(**rules)
    talk.say("two devices come, and the first round opens")
    talk.hello("a")
    talk.hello("b")
    return talk


def happy_round() -> Talk:
    talk = two_devices(round_count=1)
    talk.say("both offer their updates; the second one closes the round")
    for device in ("a", "b"):
        talk.offer(device)
        talk.chunk(device)
    talk.say("they leave")
    for device in ("a", "b"):
        talk.heard(device, Goodbye(device=device, session="s1", reason="released"))
    return talk


def device_restarts_while_offering() -> Talk:
    talk = two_devices()
    talk.offer("a")
    talk.say("a dies before it can serve its update, and comes back not knowing what it was about")
    talk.hello("a", "s2")
    talk.say("reminded of its assignment, it finds the update in its spool")
    talk.offer("a")
    talk.chunk("a")
    return talk


def duplicate_offer() -> Talk:
    talk = two_devices()
    talk.offer("a")
    talk.say("the same offer while its update is being pulled: asked again for what is missing")
    talk.offer("a")
    talk.chunk("a")
    talk.say("and once more after the verdict: the same receipt")
    talk.offer("a")
    talk.chunk("a")
    talk.say("another update of the same assignment does not count")
    talk.offer("a", b"another")
    talk.say("after the round is over, the receipt is still known")
    talk.assignments["a"], answered = fakes.assignment("a", 2), talk.assignments["a"]
    talk.offer("b")
    talk.chunk("b")
    talk.heard("a", fakes.offer(answered))
    return talk


def late_update() -> Talk:
    talk = two_devices(quorum=1)
    old = talk.assignments["b"]
    talk.offer("a")
    talk.chunk("a")
    talk.wait(60)
    talk.say("b comes too late; it is told so, and what is wanted now")
    talk.heard("b", fakes.offer(old))
    return talk


def slow_worker() -> Talk:
    talk = RoundTalk(quorum=1)
    talk.is_worker_slow = True
    talk.hello("a")
    talk.hello("b")
    talk.offer("b", b"update of b")
    talk.offer("a")
    talk.chunk("a")
    talk.say("the deadline; while the round is aggregated, devices are heard")
    talk.wait(60)
    talk.hello("c")
    talk.chunk("b")
    talk.offer("b", b"update of b")
    talk.hello("b", "s2")
    talk.wait(100)
    talk.say("it is committed")
    talk.closed()
    return talk


def oversized_update() -> Talk:
    talk = two_devices()
    talk.offer("a", size_bytes=1001)
    talk.say("what is too large is not pulled; a smaller one of the same assignment comes too late")
    talk.offer("a")
    return talk


def refusal() -> Talk:
    talk = two_devices(quorum=1)
    talk.heard("a", Refusal(assignment_id=talk.assignments["a"].id, device="a", reason="out of memory"))
    talk.say("it is not asked again this round")
    talk.hello("a")
    talk.say("the round closes with the answer of the other")
    talk.offer("b")
    talk.chunk("b")
    return talk


def deadline_with_quorum() -> Talk:
    talk = two_devices(quorum=1)
    talk.offer("a")
    talk.chunk("a")
    talk.wait(59)
    talk.wait(1)
    talk.say("b misses the second round too, and is a member no more")
    talk.offer("a")
    talk.chunk("a")
    talk.wait(60)
    return talk


def deadline_below_quorum() -> Talk:
    talk = two_devices()
    talk.say("a cannot, and b is slow")
    talk.heard("a", Refusal(assignment_id=talk.assignments["a"].id, device="a", reason="too hot"))
    slow = talk.assignments["b"]
    talk.wait(60)
    talk.say("a newcomer gets a chance at the next deadline")
    talk.hello("c")
    talk.wait(60)
    talk.say("b is still at what it was assigned at first, and is not late")
    talk.assignments["b"] = slow
    talk.offer("b")
    talk.chunk("b")
    talk.offer("a")
    talk.chunk("a")
    talk.wait(60)
    return talk


def goodbye_mid_round() -> Talk:
    talk = two_devices(quorum=1)
    talk.offer("a")
    talk.chunk("a")
    talk.say("a farewell of an earlier session is that of a device long back")
    talk.heard("b", Goodbye(device="b", session="s0", reason="stopped"))
    talk.say("b leaves, and there is nobody to wait for")
    talk.heard("b", Goodbye(device="b", session="s1", reason="stopped"))
    return talk


def aggregator_restart() -> Talk:
    talk = two_devices()
    talk.offer("a")
    talk.chunk("a")
    talk.offer("b")
    talk.restart()
    talk.say("a had its receipt, b its update half pulled")
    talk.hello("a")
    talk.hello("b")
    talk.say("b, met with silence, offers again")
    talk.offer("b")
    talk.chunk("b")
    return talk


def aggregator_restart_before_the_commit() -> Talk:
    talk = two_devices(round_count=1)
    talk.offer("a")
    talk.chunk("a")
    before = talk.state
    talk.offer("b")
    talk.chunk("b")
    accepted = {d: fakes.offer(fakes.assignment(d)) for d in ("a", "b")}
    talk.state = before
    tasks = {d: Task(fakes.assignment(d), "accepted", offer) for d, offer in accepted.items()}
    talk.state = RoundState(
        before.rules, members=before.members, tasks=Tasks(tasks), stage="open", update_bytes_max=1000
    )
    talk.restart()
    talk.say("all had answered, nothing was committed, and nobody is there to say anything")
    talk.wait(1)
    return talk


ROUNDS: dict[str, Callable[[], Talk]] = {
    f.__name__: f
    for f in (
        happy_round, device_restarts_while_offering, duplicate_offer, late_update, slow_worker, oversized_update,
        refusal, deadline_with_quorum, deadline_below_quorum, goodbye_mid_round, aggregator_restart,
        aggregator_restart_before_the_commit,
    )
}  # fmt: skip


# --- the agent -----------------------------------------------------------------------------------------------------

FIRST, SECOND = fakes.assignment(), fakes.assignment(round_index=2)


def offering() -> AgentTalk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST)
    talk.trained(FIRST)
    return talk


def agent_happy_round() -> Talk:
    talk = AgentTalk(leave=True)
    talk.welcomed()
    talk.say("an assignment, whose parameters are new")
    talk.assigned(FIRST, lacking=(sha256_hex(PARAMS),))
    talk.heard(cut_chunk(PARAMS, sha256_hex(PARAMS), 0))
    talk.trained(FIRST)
    talk.heard(Get(sha=sha256_hex(UPDATE), indices=(0,)))
    talk.heard(receipt(FIRST, "accepted"))
    talk.say("quiet, but for the heartbeat")
    talk.wait(29)
    talk.wait(1)
    talk.heard(Release(reason="the run is finished"))
    return talk


def agent_meets_silence() -> Talk:
    talk = AgentTalk()
    talk.say("its hello is lost")
    talk.connected()
    talk.wait(1)
    talk.wait(1)
    talk.say("its request is lost, then the connection")
    talk.assigned(FIRST, lacking=(sha256_hex(PARAMS),))
    talk.wait(3)
    talk.happens(agent.Disconnected(), "disconnected")
    talk.wait(60)
    talk.connected()
    talk.heard(cut_chunk(PARAMS, sha256_hex(PARAMS), 0))
    talk.say("its offer is lost")
    talk.trained(FIRST)
    talk.wait(3)
    return talk


def agent_gets_a_spoilt_blob() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST, lacking=(sha256_hex(PARAMS),))
    talk.say("what came is not what its hash says: once more, after a while")
    talk.heard(cut_chunk(b"something else", sha256_hex(PARAMS), 0))
    talk.wait(2)
    talk.wait(1)
    talk.heard(cut_chunk(PARAMS, sha256_hex(PARAMS), 0))
    return talk


def agent_restarts_while_offering() -> Talk:
    talk = AgentTalk("s2")
    talk.say("back again, with an update in the spool that nobody acknowledged")
    talk.welcomed()
    talk.assigned(FIRST, spooled=fakes.offer(FIRST, UPDATE))
    talk.heard(Get(sha=sha256_hex(UPDATE), indices=(0,)))
    talk.heard(receipt(FIRST, "accepted"))
    return talk


def agent_is_told_twice() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST, lacking=(sha256_hex(PARAMS),))
    talk.assigned(FIRST, lacking=(sha256_hex(PARAMS),))
    talk.heard(cut_chunk(PARAMS, sha256_hex(PARAMS), 0))
    talk.assigned(FIRST)
    talk.trained(FIRST)
    talk.assigned(FIRST, spooled=fakes.offer(FIRST, UPDATE))
    talk.heard(receipt(FIRST, "accepted"))
    talk.say("a copy that was long on its way is not trained again")
    talk.assigned(FIRST)
    talk.heard(receipt(FIRST, "accepted"))
    talk.assigned(SECOND)
    return talk


def agent_is_late() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST)
    talk.say("the next round's assignment comes while the first is trained: the training goes on")
    talk.assigned(SECOND)
    talk.trained(FIRST)
    talk.heard(receipt(FIRST, "late", "its round is over"))
    talk.assigned(SECOND)
    return talk


def agent_never_trains_two_at_once() -> Talk:
    talk = offering()
    talk.say("a new assignment before the receipt, and then a late copy of the old one")
    talk.assigned(SECOND)
    talk.assigned(FIRST, spooled=fakes.offer(FIRST, UPDATE))
    talk.heard(receipt(FIRST, "late", "its round is over"))
    talk.assigned(SECOND)
    talk.trained(SECOND)
    return talk


def agent_is_rejected() -> Talk:
    talk = offering()
    talk.heard(receipt(FIRST, "rejected", "1001 bytes are more than the 1000 this submodel can need"))
    talk.assigned(fakes.assignment(attempt=1))
    return talk


def agent_refuses() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST)
    talk.happens(agent.TrainingFailed(FIRST.id, "out of memory"), "training failed")
    talk.say("the refusal was lost: assigned again, it tries again")
    talk.assigned(FIRST)
    return talk


def agent_cannot_read() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST)
    talk.say("an assignment of a later version comes while the first is trained, which goes on")
    talk.happens(agent.Unreadable(SECOND.id, "it has an unknown field"), f"told {SECOND.id}, which it cannot read")
    talk.trained(FIRST)
    return talk


def agent_gives_up() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(fakes.assignment(ttl_s=60.0), lacking=(sha256_hex(PARAMS),))
    talk.say("nobody ever sends the parameters; when the assignment has expired, it asks what is wanted")
    talk.wait(59)
    talk.wait(1)
    talk.wait(3)
    return talk


def agent_sees_the_aggregator_restart() -> Talk:
    talk = AgentTalk()
    talk.welcomed()
    talk.assigned(FIRST)
    talk.say("the roll is called while it trains")
    talk.heard(RollCall(session="a2"))
    talk.assigned(FIRST)
    talk.trained(FIRST)
    return talk


AGENT: dict[str, Callable[[], Talk]] = {
    f.__name__.removeprefix("agent_"): f
    for f in (
        agent_happy_round, agent_meets_silence, agent_gets_a_spoilt_blob, agent_restarts_while_offering,
        agent_is_told_twice, agent_is_late, agent_never_trains_two_at_once, agent_is_rejected, agent_refuses,
        agent_cannot_read, agent_gives_up, agent_sees_the_aggregator_restart,
    )
}  # fmt: skip


CONVERSATIONS = {f"rounds/{name}": f for name, f in ROUNDS.items()} | {f"agent/{name}": f for name, f in AGENT.items()}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_conversation_goes_as_it_is_written(name):
    path = HERE / f"{name}.txt"
    said = CONVERSATIONS[name]().text()
    if os.environ.get("ESPALIER_RECORD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(said)
    assert said == path.read_text()


def test_no_conversation_is_left_over():
    assert {str(path.relative_to(HERE).with_suffix("")) for path in HERE.rglob("*.txt")} == set(CONVERSATIONS)
