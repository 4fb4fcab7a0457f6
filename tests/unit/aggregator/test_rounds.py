"""The round machine's transitions, and what holds for every conversation (`tests/transcripts` has whole ones)."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core import round_members
from aggregator.core.pulls import SILENCE_NS, SILENCES_MAX
from aggregator.core.round_events import (
    Broadcast,
    Checked,
    CheckUpdate,
    Closed,
    CloseRound,
    Command,
    Depart,
    DropChunks,
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
    WriteChunk,
)
from aggregator.core.round_state import SECOND_NS, RoundRules, RoundState, Task, Tasks, resume
from aggregator.core.rounds import step
from device_runtime.wire import limits
from device_runtime.wire.messages import (
    Assignment,
    Get,
    Gone,
    Goodbye,
    Offer,
    Receipt,
    Refusal,
    Release,
    RollCall,
    Welcome,
)
from device_runtime.wire.support import sha256_hex
from tests import fakes
from tests.fakes import QUICK, MemoryArrivals, cut_chunk
from tests.golden.values import MESSAGES

UPDATE = b"update"
RULES = RoundRules(round_count=3, devices_min=2, quorum=2, deadline_s=60.0)


class Shell:
    """Carries out commands as service.py does, and keeps what it was told to."""

    def __init__(self, rules: RoundRules = RULES) -> None:
        self.state = RoundState(rules)
        self.arriving = MemoryArrivals()
        self.now_ns = 0
        self.commands: list[Command] = []
        self.assignments: dict[str, Assignment] = {}
        self.verdicts: dict[tuple[str, str], str] = {}
        self.closed: list[dict[str, str]] = []
        self.unservable: set[str] = set()
        self.is_worker_slow = False  # then a round that closes is closed by `close` only

    def happens(self, event: Event) -> list[Command]:
        """Everything commanded because of one event."""
        start = len(self.commands)
        self._step(event)
        return self.commands[start:]

    def _step(self, event: Event) -> None:
        self.state, commands = step(self.state, event, self.now_ns)
        for command in commands:
            self.commands.append(command)
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case OpenRound(index, attempt, devices):
                reasons = {device: "no engine" for device in devices if device in self.unservable}
                if reasons:
                    self._step(Unservable(reasons))
                    return
                made = tuple(fakes.assignment(device, index, attempt) for device in devices)
                self.assignments |= {a.device: a for a in made}
                self._step(Opened(made, 100))
            case WriteChunk(device, chunk):
                self.arriving.write(device, chunk)
            case DropChunks(device, sha):
                self.arriving.drop(device, sha)
            case CheckUpdate(offer):
                data = self.arriving.take(offer.device, offer.update_sha)
                if data is None:
                    self._step(Spoilt(offer, "it is not its name"))
                else:
                    self._judge(offer, "accepted" if data.startswith(UPDATE) else "rejected")
            case RejectUpdate(offer):
                self._judge(offer, "rejected")
            case CloseRound():
                tasks = self.state.tasks
                accepted = {d: t.offer.assignment_id for d, t in tasks.items() if t.status == "accepted" and t.offer}
                self.closed.append(accepted)
                if not self.is_worker_slow:
                    self._step(Closed())

    def _judge(self, offer: Offer, verdict) -> None:
        key = (offer.assignment_id, offer.update_sha)
        assert key not in self.verdicts, "an update is judged once"
        self.verdicts[key] = verdict
        receipt = Receipt(assignment_id=key[0], update_sha=key[1], verdict=verdict)
        self._step(Checked(offer.device, receipt))

    # --- shorthand --------------------------------------------------------------------------------------------

    def hello(self, device: str, session: str = "s1") -> list[Command]:
        return self.happens(Heard(device, fakes.hello(device, session)))

    def offer(self, device: str, data: bytes = UPDATE) -> list[Command]:
        return self.happens(Heard(device, fakes.offer(self.assignments[device], data)))

    def update(self, device: str, data: bytes = UPDATE) -> list[Command]:
        commands = self.offer(device, data)
        return commands + self.happens(Heard(device, cut_chunk(data, sha256_hex(data), 0)))

    def refuse(self, device: str) -> list[Command]:
        refusal = Refusal(assignment_id=self.assignments[device].id, device=device, reason="no")
        return self.happens(Heard(device, refusal))

    def wait(self, seconds: float) -> list[Command]:
        self.now_ns += int(seconds * SECOND_NS)
        return self.happens(Tick())

    def close(self) -> list[Command]:
        return self.happens(Closed()) if self.state.stage == "closing" else []

    def status(self) -> dict[str, str]:
        return {device: task.status for device, task in self.state.tasks.items()}


@pytest.fixture
def shell() -> Shell:
    """Round 1 open with devices a and b."""
    made = Shell()
    made.hello("b")
    made.hello("a")
    return made


def sent(commands: list[Command], kind: type) -> list[str]:
    """To whom a kind of message was sent."""
    return [c.device for c in commands if isinstance(c, Send) and isinstance(c.message, kind)]


# --- membership ----------------------------------------------------------------------------------------------------


def test_the_first_round_waits_for_devices_min_and_opens_in_order_of_name():
    shell = Shell()
    assert not any(isinstance(c, OpenRound) for c in shell.hello("b") + shell.wait(1000))
    commands = shell.hello("a")
    assert [c for c in commands if isinstance(c, OpenRound)] == [OpenRound(1, 0, ("a", "b"))]
    assert sent(commands, Assignment) == ["a", "b"]


def test_membership_is_durable_before_the_welcome():
    commands = Shell().hello("a")
    assert commands[0] == Enrol(fakes.hello("a"))
    assert sent(commands[1:], Welcome) == ["a"]


def test_a_heartbeat_is_not_enrolled_again_but_a_new_session_is(shell):
    assert not any(isinstance(c, Enrol) for c in shell.hello("a"))
    assert Enrol(fakes.hello("a", "s2"), returns=True) in shell.hello("a", "s2")


def test_no_more_devices_are_taken_in_than_the_limit_and_those_who_are_stay(shell, monkeypatch):
    monkeypatch.setattr(round_members, "DEVICE_COUNT_MAX", len(shell.state.members))
    before = shell.state
    (note,) = shell.hello("one-too-many")
    assert isinstance(note, Note)
    assert "one-too-many is not taken in" in note.text
    assert shell.state == before
    assert any(isinstance(c, Enrol) for c in shell.hello(next(iter(before.members)), "s2")), "a member may come back"


def test_a_hello_brings_the_open_assignment_once_more(shell):
    assert sent(shell.hello("a"), Assignment) == ["a"]
    shell.offer("a")
    assert sent(shell.hello("a", "s2"), Assignment) == ["a"], "it may have restarted while it offered"
    shell.update("a")
    assert sent(shell.hello("a"), Assignment) == []


def test_a_newcomer_takes_part_from_the_next_round_on(shell):
    assert sent(shell.hello("c"), Assignment) == []
    shell.update("a")
    assert OpenRound(2, 0, ("a", "b", "c")) in shell.update("b")


def test_the_last_will_of_an_old_session_marks_nobody(shell):
    shell.hello("a", "s2")
    shell.happens(Heard("a", Gone(device="a", session="s1")))
    assert shell.state.members["a"].online
    shell.happens(Heard("a", Gone(device="a", session="s2")))
    assert not shell.state.members["a"].online
    assert shell.status()["a"] == "assigned", "a broken connection is no farewell"


def test_the_farewell_of_an_old_session_is_ignored(shell):
    shell.hello("a", "s2")
    assert shell.happens(Heard("a", Goodbye(device="a", session="s1"))) == []
    assert "a" in shell.state.members


def test_a_farewell_leaves_no_open_answer_in_the_journal(shell):
    commands = shell.happens(Heard("a", Goodbye(device="a", session="s1")))
    refusal = Refusal(assignment_id=shell.assignments["a"].id, device="a", reason="said goodbye")
    assert commands == [RecordRefusal(refusal), Depart("a", "said goodbye")]
    assert shell.status()["a"] == "refused"


def test_a_farewell_after_the_answer_keeps_the_answer(shell):
    shell.update("a")
    assert shell.happens(Heard("a", Goodbye(device="a", session="s1"))) == [Depart("a", "said goodbye")]
    shell.update("b")
    assert set(shell.closed[0]) == {"a", "b"}


def test_a_later_round_opens_without_those_who_left():
    shell = Shell(replace(RULES, devices_min=3))
    for device in "abc":
        shell.hello(device)
    shell.happens(Heard("c", Goodbye(device="c", session="s1")))
    shell.update("a")
    assert OpenRound(2, 0, ("a", "b")) in shell.update("b")


def test_a_later_round_waits_for_as_many_as_can_close_it(shell):
    shell.update("a")
    shell.happens(Heard("a", Goodbye(device="a", session="s1")))
    shell.update("b")
    assert (shell.state.round_index, shell.state.stage) == (2, "gathering")
    assert OpenRound(2, 0, ("b", "c")) in shell.hello("c")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_nobody_speaks_for_another(shell, name):
    """Messages of pi-1 on the topic of a, and messages that only the aggregator sends, change nothing."""
    before = shell.state
    commands = shell.happens(Heard("a", MESSAGES[name]))
    if name == "Get":  # names no device: it is answered
        assert commands == [Serve("a", MESSAGES[name])]
    elif name != "Chunk":
        assert [type(c) for c in commands] == [Note]
    assert shell.state == before


# --- answers -------------------------------------------------------------------------------------------------------


def test_a_verdict_is_journalled_before_its_receipt_and_the_round_closes_after_it(shell):
    shell.update("b")
    commands = shell.update("a")
    order = [type(c).__name__ if not isinstance(c, Send) else type(c.message).__name__ for c in commands]
    assert order[:5] == ["Get", "WriteChunk", "CheckUpdate", "Receipt", "CloseRound"]


def test_an_offer_that_counts_other_samples_than_the_hello_is_refused_unseen(shell):
    lie = msgspec.structs.replace(fakes.offer(shell.assignments["a"], UPDATE), sample_count=100_000_000)
    commands = shell.happens(Heard("a", lie))
    (refused,) = [c for c in commands if isinstance(c, RejectUpdate)]
    assert refused.reason == "the offer counts 100000000 samples and the device's hello 20"
    assert sent(commands, Get) == []
    assert sent(commands, Receipt) == ["a"]
    assert shell.status()["a"] == "rejected"


def test_a_member_that_says_it_has_other_samples_is_told_of(shell):
    other = msgspec.structs.replace(fakes.hello("a", "s2"), sample_count=25)
    assert Note("a says that it has 25 samples, 20 before") in shell.happens(Heard("a", other))
    assert not any(isinstance(c, Note) for c in shell.happens(Heard("a", other)))
    honest = msgspec.structs.replace(fakes.offer(shell.assignments["a"], UPDATE), sample_count=25)
    assert sent(shell.happens(Heard("a", honest)), Get) == ["a"]


def test_an_update_in_several_chunks_is_pulled_by_a_window_and_again_after_a_silence(monkeypatch, shell):
    monkeypatch.setattr("device_runtime.wire.limits.CHUNK_BYTES_MAX", 8)
    data = UPDATE + b"x" * 90
    sha = sha256_hex(data)

    def gets(commands):
        return [c.message.indices for c in commands if isinstance(c, Send) and isinstance(c.message, Get)]

    assert gets(shell.offer("a", data)) == [tuple(range(8))]
    assert gets(shell.happens(Heard("a", cut_chunk(data, sha, 3)))) == [(8,)]
    assert gets(shell.wait(SILENCE_NS / SECOND_NS - 0.1)) == []
    assert gets(shell.wait(0.1)) == [(0, 1, 2, 4, 5, 6, 7, 8)]
    for index in (9, 10, 11, 0, 1, 2, 4, 5, 6, 7, 8):
        shell.happens(Heard("a", cut_chunk(data, sha, index)))
    assert shell.status()["a"] == "accepted"


@pytest.mark.parametrize("spoilt", [b"spoilt", b"too long"], ids=["not its name", "a chunk that lies"])
def test_a_spoilt_update_is_pulled_again_when_it_is_offered_again_not_at_once(shell, spoilt):
    shell.offer("a")
    commands = shell.happens(Heard("a", cut_chunk(spoilt, sha256_hex(UPDATE), 0)))
    assert isinstance(commands[-1], Note)
    assert sent(commands, Get) == sent(shell.wait(SILENCE_NS / SECOND_NS), Get) == []
    assert shell.arriving.written == {}
    shell.update("a")
    assert shell.status()["a"] == "accepted"


def test_a_silent_device_is_given_up_and_its_update_pulled_when_it_is_offered_again(shell):
    shell.offer("a")
    asked = [sent(shell.wait(SILENCE_NS / SECOND_NS), Get) for _ in range(SILENCES_MAX)]
    assert asked == [["a"]] * (SILENCES_MAX - 1) + [[]]
    assert shell.status()["a"] == "assigned"
    assert sent(shell.hello("a"), Assignment) == ["a"]
    shell.update("a")
    assert shell.status()["a"] == "accepted"


def test_more_updates_than_there_are_places_come_in_one_after_the_other(monkeypatch):
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 8)  # so 80 bytes use the whole window
    names = [f"d{number:02d}" for number in range(20)]
    shell = Shell(replace(RULES, devices_min=20, quorum=20))
    for name in names:
        shell.hello(name)
    data = UPDATE + b"x" * 74
    asked = [name for name in names if sent(shell.offer(name, data), Get)]
    assert asked == names[:16], "128 chunks under way are 16 windows of 8"
    for index in range(10):
        shell.happens(Heard("d03", cut_chunk(data, sha256_hex(data), index)))
    assert shell.status()["d03"] == "accepted"
    assert "d16" in shell.state.pulls.under_way
    for name in names:
        for index in range(10):
            shell.happens(Heard(name, cut_chunk(data, sha256_hex(data), index)))
    assert set(shell.closed[0]) == set(names)
    assert shell.arriving.written == {}


def test_an_update_too_large_ends_the_pull_of_the_one_before(shell):
    """Or its last chunk would have the large one checked."""
    shell.offer("a")
    shell.happens(Heard("a", fakes.offer(shell.assignments["a"], bytes(101))))
    assert shell.status()["a"] == "rejected"
    assert shell.happens(Heard("a", cut_chunk(UPDATE, sha256_hex(UPDATE), 0))) == []


def test_what_is_under_way_when_a_round_closes_is_dropped():
    shell = Shell(replace(RULES, quorum=1))
    shell.hello("a")
    shell.hello("b")
    shell.offer("b", UPDATE + b" that comes late")
    shell.update("a")
    assert DropChunks("b", sha256_hex(UPDATE + b" that comes late")) in shell.wait(60)
    assert shell.state.pulls.under_way == {}


def test_a_chunk_nobody_asked_for_is_ignored(shell):
    before = shell.state
    assert shell.happens(Heard("a", cut_chunk(UPDATE, sha256_hex(UPDATE), 0))) == []
    assert shell.state == before


def test_a_rejected_update_does_not_count_and_the_round_waits(shell):
    shell.update("a", b"not finite")
    shell.update("b")
    assert shell.status() == {"a": "rejected", "b": "accepted"}
    assert shell.closed == []


def test_of_two_updates_of_an_assignment_the_first_counts(shell):
    shell.update("a")
    commands = shell.update("a", UPDATE + b" of another life")
    assert [(type(c), c.message.verdict) for c in commands] == [(Send, "late")]
    assert list(shell.verdicts.values()) == ["accepted"]


def test_an_update_offered_again_gets_the_receipt_it_got(shell):
    receipt = shell.update("a")[-1]
    assert isinstance(receipt.message, Receipt)
    assert shell.offer("a") == [receipt]
    shell.update("b")
    assert shell.happens(Heard("a", fakes.offer(fakes.assignment("a")))) == [receipt, Send("a", shell.assignments["a"])]


def test_an_update_larger_than_the_submodel_can_need_is_rejected_unseen(shell):
    offer = fakes.offer(shell.assignments["a"], bytes(101))
    commands = shell.happens(Heard("a", offer))
    assert [type(c) for c in commands] == [RejectUpdate, Send]
    assert commands[1].message.verdict == "rejected"
    assert shell.status()["a"] == "rejected"


def test_a_late_refusal_is_ignored(shell):
    shell.update("a")
    assert shell.refuse("a") == []
    assert shell.status()["a"] == "accepted"


def test_an_offer_from_nobody_is_late(shell):
    commands = shell.happens(Heard("z", fakes.offer(fakes.assignment("z"))))
    assert [c.message.verdict for c in commands] == ["late"]


# --- the end of a round --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quorum", "accepted", "refused", "before_deadline", "after_deadline"),
    [
        (2, "ab", "", True, True),
        (1, "ab", "", True, True),
        (1, "a", "b", True, True),
        (1, "a", "", False, True),
        (2, "a", "b", False, False),
        (2, "a", "", False, False),
        (1, "", "ab", False, False),
        (1, "", "", False, False),
        (0, "", "ab", False, False),
    ],
)
def test_a_round_closes_when_all_answered_or_at_the_deadline_with_quorum(
    quorum, accepted, refused, before_deadline, after_deadline
):
    shell = Shell(replace(RULES, quorum=quorum))
    shell.hello("a")
    shell.hello("b")
    for device in refused:
        shell.refuse(device)
    for device in accepted:
        shell.update(device)
    shell.wait(59.9)
    assert bool(shell.closed) == before_deadline
    shell.wait(0.2)
    assert bool(shell.closed) == after_deadline


def test_after_the_deadline_below_quorum_those_who_said_no_are_asked_again_and_the_slow_go_on(shell):
    shell.refuse("a")
    slow = shell.assignments["b"]
    commands = shell.wait(60)
    assert OpenRound(1, 1, ("a",)) in commands
    assert shell.state.tasks["b"].assignment == slow
    shell.wait(60)
    shell.update("b")
    shell.update("a")
    assert shell.closed == [{"a": "run-1-1-a", "b": "run-1-0-b"}]


def test_a_device_too_slow_for_the_deadline_is_not_starved_by_one_that_refuses():
    shell = Shell(replace(RULES, quorum=1, deadline_s=10.0))
    shell.hello("a")
    shell.hello("b")
    for _ in range(5):  # b needs 50 s
        shell.refuse("a")
        shell.wait(10)
    shell.update("b")
    shell.wait(10)
    assert shell.closed[0] == {"b": "run-1-0-b"}


def with_engines(device: str, *engines: str) -> Heard:
    return Heard(device, msgspec.structs.replace(fakes.hello(device), engines=engines))


def unserved(commands: list[Command]) -> list[str]:
    """Who was told that it waits outside."""
    sends = [c for c in commands if isinstance(c, Send) and isinstance(c.message, Welcome)]
    return [c.device for c in sends if c.message.unserved]


def test_a_device_for_which_no_artifact_can_be_made_is_told_and_waits_while_the_round_opens_with_the_others(shell):
    shell.hello("c")
    shell.unservable = {"c"}
    shell.update("a")
    commands = shell.update("b")
    assert OpenRound(2, 0, ("a", "b", "c")) in commands
    assert OpenRound(2, 0, ("a", "b")) in commands
    assert commands[commands.index(Depart("c", "no engine")) + 1].message.unserved == "no engine"
    assert set(shell.status()) == set(shell.state.members) == {"a", "b"}
    shell.update("a")
    shell.update("b")
    assert shell.closed[1] == {"a": "run-2-0-a", "b": "run-2-0-b"}


def test_an_outsider_that_says_hello_again_is_told_again_and_joins_with_another_engine(shell):
    shell.hello("c")
    shell.unservable = {"c"}
    shell.update("a")
    shell.update("b")
    again = shell.hello("c", "s2")
    assert (unserved(again), len(again)) == (["c"], 1), "nothing is journalled, and no round is opened in vain"
    shell.unservable = set()
    commands = shell.happens(with_engines("c", "other"))
    assert isinstance(commands[0], Enrol)
    assert unserved(commands) == []
    shell.update("a")
    assert OpenRound(3, 0, ("a", "b", "c")) in shell.update("b")


def test_where_nobody_can_be_served_the_run_waits_and_says_for_whom():
    shell = Shell()
    shell.unservable = {"a", "b"}
    shell.hello("a")
    commands = shell.hello("b")
    assert (shell.state.stage, shell.status(), dict(shell.state.members)) == ("gathering", {}, {})
    assert [c.text for c in commands if isinstance(c, Note)] == [
        "round 1 waits for 2 more; no artifact can be made for a, b"
    ]
    assert [c for c in shell.wait(1000) if not isinstance(c, Note)] == []
    shell.unservable = set()
    shell.happens(with_engines("a", "other"))
    assert OpenRound(1, 0, ("a", "b")) in shell.happens(with_engines("b", "other"))


def test_the_first_round_waits_for_devices_min_that_can_be_served():
    shell = Shell()
    shell.unservable = {"a"}
    shell.hello("a")
    commands = shell.hello("b")
    assert shell.state.stage == "gathering"
    assert "round 1 waits for 1 more; no artifact can be made for a" in [c.text for c in commands if type(c) is Note]
    assert OpenRound(1, 0, ("b", "c")) in shell.hello("c")


def test_a_newcomer_that_cannot_be_served_does_not_disturb_an_attempt(shell):
    shell.refuse("a")
    shell.hello("c")
    shell.unservable = {"c"}
    commands = shell.wait(60)
    assert OpenRound(1, 2, ("a",)) in commands
    assert unserved(commands) == ["c"]
    shell.update("a")
    shell.update("b")
    assert shell.closed == [{"a": "run-1-2-a", "b": "run-1-0-b"}]


def test_where_only_one_that_cannot_be_served_could_be_asked_again_the_others_get_more_time(shell):
    shell.hello("c")
    shell.unservable = {"c"}
    assert unserved(shell.wait(60)) == ["c"]
    assert (shell.state.stage, shell.status()) == ("open", {"a": "assigned", "b": "assigned"})
    assert not any(isinstance(c, OpenRound) for c in shell.wait(59))
    shell.update("a")
    shell.update("b")
    assert len(shell.closed) == 1


def test_members_that_cannot_be_served_any_more_after_a_restart_wait_outside():
    members = [fakes.hello("a"), fakes.hello("b"), fakes.hello("c")]
    shell = Shell()
    shell.state = resume(RULES, members, 0, None, 0)
    shell.unservable = {"b"}
    commands = shell.wait(1)
    assert OpenRound(1, 0, ("a", "c")) in commands
    assert Depart("b", "no engine") in commands


def test_an_outsider_that_leaves_is_forgotten():
    shell = Shell(replace(RULES, devices_min=1))
    shell.unservable = {"a"}
    shell.hello("a")
    assert shell.happens(Heard("a", Goodbye(device="a", session="s1"))) == []
    assert shell.state.outsiders == {}


def test_outsiders_count_to_the_limit_of_devices(monkeypatch):
    monkeypatch.setattr(round_members, "DEVICE_COUNT_MAX", 2)
    shell = Shell(replace(RULES, devices_min=1))
    shell.unservable = {"a", "b"}
    shell.hello("a")
    shell.hello("b")
    (note,) = shell.hello("c")
    assert "c is not taken in" in note.text


def test_what_was_accepted_survives_a_further_attempt(shell):
    shell.update("a")
    shell.refuse("b")
    shell.wait(60)
    shell.update("b")
    assert shell.closed == [{"a": "run-1-0-a", "b": "run-1-1-b"}]


def test_a_round_all_answered_before_a_restart_closes_without_anybody_speaking(shell):
    tasks = {d: Task(a, "accepted", fakes.offer(a)) for d, a in shell.assignments.items()}
    shell.state = replace(shell.state, tasks=Tasks(tasks))
    assert CloseRound(1) in shell.wait(0.1)


def test_a_member_that_misses_too_many_rounds_is_one_no_more():
    shell = Shell(replace(RULES, quorum=1, missed_max=2))
    shell.hello("a")
    shell.hello("b")
    shell.update("a")
    assert not any(isinstance(c, Depart) for c in shell.wait(60))
    shell.update("a")
    assert Depart("b", "missed 2 rounds in a row") in shell.wait(60)
    assert set(shell.state.members) == {"a"}


def test_a_member_that_answers_again_starts_counting_anew():
    shell = Shell(replace(RULES, quorum=1, missed_max=2, round_count=9))
    shell.hello("a")
    shell.hello("b")
    for _ in range(3):
        shell.update("a")
        shell.wait(60)
        shell.update("b")
        shell.update("a")
    assert "b" in shell.state.members


def test_the_last_round_releases_everybody_and_latecomers_too(shell):
    for _ in range(3):
        shell.update("a")
        commands = shell.update("b")
    assert commands[-1] == Broadcast(Release(reason="the run is finished"))
    assert shell.state.stage == "finished"
    assert sent(shell.hello("z"), Release) == ["z"]
    assert len(shell.closed) == 3


# --- while a round closes -------------------------------------------------------------------------------------------


@pytest.fixture
def closing() -> Shell:
    """Round 1 closes at its deadline with a's update; b's is under way, c has not answered."""
    made = Shell(replace(RULES, quorum=1, devices_min=3))
    made.is_worker_slow = True
    for device in "abc":
        made.hello(device)
    made.offer("b", UPDATE + b" that comes late")
    made.update("a")
    made.wait(60)
    assert made.state.stage == "closing"
    return made


def test_what_comes_while_a_round_closes_is_late_and_does_not_count(closing):
    late = UPDATE + b" that comes late"
    assert closing.happens(Heard("b", cut_chunk(late, sha256_hex(late), 0))) == []
    for device in "bc":
        commands = closing.offer(device)
        assert [(c.device, c.message.verdict) for c in commands] == [(device, "late")]
    assert closing.offer("a")[0].message.verdict == "accepted", "who asks again hears the verdict again"
    assert list(closing.verdicts.values()) == ["accepted"]
    assert closing.closed == [{"a": "run-1-0-a"}]


def test_devices_are_welcomed_while_a_round_closes_and_get_no_assignment_of_it(closing):
    for device, session in (("a", "s1"), ("c", "s2"), ("z", "s1")):
        commands = closing.hello(device, session)
        assert (sent(commands, Welcome), sent(commands, Assignment)) == ([device], [])
    assert OpenRound(2, 0, ("a", "b", "c", "z")) in closing.close()


def test_time_passes_while_a_round_closes_without_closing_it_twice(closing):
    assert closing.wait(1000) == []
    closing.close()
    assert (closing.state.round_index, closing.state.stage) == (2, "open")
    assert len(closing.closed) == 1


def test_who_leaves_or_refuses_while_a_round_closes_is_heard(closing):
    assert [type(c) for c in closing.refuse("c")] == [RecordRefusal, Note]
    commands = closing.happens(Heard("b", Goodbye(device="b", session="s1")))
    assert [type(c) for c in commands] == [RecordRefusal, Depart]
    assert OpenRound(2, 0, ("a", "c")) in closing.close()


def test_chunks_of_the_model_are_served_while_a_round_closes(closing):
    get = Get(sha=fakes.sha("graph"), indices=(0,))
    assert closing.happens(Heard("a", get)) == [Serve("a", get)]


# --- every conversation --------------------------------------------------------------------------------------------

DEVICES = ["a", "b", "c"]
ACTIONS = st.sampled_from(
    ["hello", "restart", "offer", "other", "bad", "large", "old", "chunk", "refuse", "leave", "gone", "wait", "work"]
)


def act(shell: Shell, action: str, device: str, counter: int) -> None:
    of = shell.assignments.get(device, fakes.assignment(device))
    data = {"bad": b"bad", "large": bytes(101), "other": UPDATE + b" of another life"}.get(action, UPDATE)
    session = shell.state.members[device].hello.session if device in shell.state.members else "s0"
    match action:
        case "hello":
            shell.hello(device, session)
        case "restart":
            shell.hello(device, f"s{counter}")
        case "offer" | "other" | "bad" | "large":
            shell.happens(Heard(device, fakes.offer(of, data)))
        case "old":
            shell.happens(Heard(device, fakes.offer(fakes.assignment(device, 1))))
        case "chunk":
            for content in (UPDATE, UPDATE + b" of another life", b"bad"):
                shell.happens(Heard(device, cut_chunk(content, sha256_hex(content), 0)))
        case "refuse":
            shell.happens(Heard(device, Refusal(assignment_id=of.id, device=device, reason="no")))
        case "leave":
            shell.happens(Heard(device, Goodbye(device=device, session=session)))
        case "gone":
            shell.happens(Heard(device, Gone(device=device, session=session)))
        case "wait":
            shell.wait(25)
        case "work":
            shell.close()


@given(
    st.lists(st.tuples(ACTIONS, st.sampled_from(DEVICES)), max_size=60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
@settings(QUICK, max_examples=300)
def test_in_every_conversation(actions, quorum, devices_min, is_worker_slow):
    """Nothing a peer says raises; rounds only rise; who is accepted is counted, and nobody else; every receipt has its
    verdict."""
    shell = Shell(replace(RULES, quorum=quorum, devices_min=devices_min))
    shell.is_worker_slow = is_worker_slow
    index = 1
    for counter, (action, device) in enumerate(actions):
        act(shell, action, device, counter)
        assert index <= shell.state.round_index <= index + 1
        index = shell.state.round_index
    for accepted in shell.closed:
        assert len(accepted) >= quorum
    counted = [assignment for accepted in shell.closed for assignment in accepted.values()]
    assert len(counted) == len(set(counted))
    good = [assignment for (assignment, _), verdict in shell.verdicts.items() if verdict == "accepted"]
    under_way = shell.state.round_index if shell.state.stage == "open" else None
    assert set(counted) == {a for a in good if int(a.split("-")[1]) != under_way}
    assert len(good) == len(set(good)), "one update of an assignment is accepted"
    for command in shell.commands:
        if isinstance(command, Send) and isinstance(command.message, Receipt) and command.message.verdict != "late":
            key = (command.message.assignment_id, command.message.update_sha)
            assert shell.verdicts[key] == command.message.verdict


def test_a_roll_call_is_not_the_machines_to_hear(shell):
    assert [type(c) for c in shell.happens(Heard("a", RollCall(session="x")))] == [Note]
