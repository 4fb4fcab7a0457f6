"""The journal of a run: what a method wrote is there after reopening, and no update counts twice."""

import sqlite3

import pytest

from aggregator.ledger import Ledger
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import Receipt, Refusal
from tests import fakes

A, B = fakes.assignment("a"), fakes.assignment("b")


def receipt(offer, verdict="accepted", reason=""):
    return Receipt(assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict=verdict, reason=reason)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger(path)
    yield opened
    opened.close()


def reopened(path) -> Ledger:
    """As another process would see it, the first one not closed."""
    return Ledger(path, read_only=True)


def test_settings_are_there_after_reopening(ledger, path):
    assert ledger.setting("run_id") is None
    ledger.set_setting("run_id", "a")
    ledger.set_setting("run_id", "b")
    assert reopened(path).setting("run_id") == "b"


def test_a_device_enrols_departs_and_returns(ledger, path):
    ledger.enrol(fakes.hello("a", "s1"))
    ledger.enrol(fakes.hello("b"))
    ledger.depart("a", "said goodbye")
    assert [(h.device, m, r) for h, m, r, _ in reopened(path).devices()] == [
        ("a", False, "said goodbye"),
        ("b", True, ""),
    ]
    ledger.enrol(fakes.hello("a", "s2"))
    assert reopened(path).devices()[0][:3] == (fakes.hello("a", "s2"), True, "")


def test_an_opened_round_is_there_after_reopening(ledger, path):
    assert ledger.opened_round(1) is None
    assert not ledger.begun()
    ledger.open_round(1, 0, 500, (A, B))
    assert ledger.begun()
    opened = reopened(path).opened_round(1)
    assert (opened.attempt, opened.update_bytes_max, opened.assignments) == (0, 500, (A, B))
    assert (opened.accepted, opened.receipts, opened.refused) == ({}, {}, frozenset())


def test_opening_a_round_again_changes_nothing(ledger):
    ledger.open_round(1, 0, 500, (A, B))
    before = ledger.opened_round(1)
    ledger.open_round(1, 0, 500, (A, B))
    assert ledger.opened_round(1) == before


def test_a_further_attempt_replaces_the_assignment_of_whom_it_names(ledger):
    ledger.open_round(1, 0, 500, (A, B))
    again = fakes.assignment("b", attempt=1)
    ledger.open_round(1, 1, 500, (again,))
    opened = ledger.opened_round(1)
    assert opened.attempt == 1
    assert set(opened.assignments) == {A, again}


def test_a_verdict_is_there_after_reopening_with_its_offer(ledger, path):
    ledger.open_round(1, 0, 500, (A, B))
    good, bad = fakes.offer(A), fakes.offer(B)
    ledger.record_update(1, good, receipt(good))
    ledger.record_update(1, bad, receipt(bad, "rejected", "not finite"))
    opened = reopened(path).opened_round(1)
    assert opened.accepted == {"a": good}
    assert opened.receipts == {
        (A.id, good.update_sha): receipt(good),
        (B.id, bad.update_sha): receipt(bad, "rejected", "not finite"),
    }
    assert reopened(path).update_counts() == {"accepted": 1, "rejected": 1}


def test_the_same_update_recorded_twice_counts_once(ledger):
    ledger.open_round(1, 0, 500, (A,))
    offer = fakes.offer(A)
    for _ in range(2):
        ledger.record_update(1, offer, receipt(offer))
    assert ledger.update_counts() == {"accepted": 1}


def test_a_verdict_once_given_stays(ledger):
    offer = fakes.offer(A)
    ledger.record_update(1, offer, receipt(offer, "rejected", "first"))
    ledger.record_update(1, offer, receipt(offer, "accepted"))
    assert ledger.update_counts() == {"rejected": 1}


def test_what_an_offer_keeps_back_is_there_after_reopening(ledger, path):
    ledger.open_round(1, 0, 500, (A,))
    offer = fakes.offer(A, kept_back=("fc2.bias", "fc2.weight"))
    ledger.record_update(1, offer, receipt(offer))
    assert reopened(path).opened_round(1).accepted == {"a": offer}


def test_a_second_update_of_an_assignment_cannot_be_accepted(ledger):
    ledger.open_round(1, 0, 500, (A,))
    first, second = fakes.offer(A, b"first"), fakes.offer(A, b"second")
    ledger.record_update(1, first, receipt(first))
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_update(1, second, receipt(second))
    assert ledger.opened_round(1).accepted == {"a": first}


def test_a_second_update_after_a_rejected_one_may_be_accepted(ledger):
    first, second = fakes.offer(A, b"first"), fakes.offer(A, b"second")
    ledger.open_round(1, 0, 500, (A,))
    ledger.record_update(1, first, receipt(first, "rejected"))
    ledger.record_update(1, second, receipt(second))
    assert ledger.opened_round(1).accepted == {"a": second}


def test_a_refusal_is_remembered(ledger, path):
    ledger.open_round(1, 0, 500, (A, B))
    ledger.refuse(Refusal(assignment_id=B.id, device="b", reason="no memory"))
    assert reopened(path).opened_round(1).refused == {B.id}


def test_a_committed_round_is_the_last_one(ledger, path):
    assert ledger.last_committed() is None
    ledger.open_round(1, 0, 500, (A,))
    assert ledger.last_committed() is None
    ledger.commit_round(1, "sha-1", {"round_index": 1})
    ledger.open_round(2, 0, 500, (fakes.assignment("a", 2),))
    assert reopened(path).last_committed() == (1, "sha-1")
    ledger.commit_round(2, "sha-2", {"round_index": 2})
    assert reopened(path).last_committed() == (2, "sha-2")
    assert reopened(path).results(dict) == [{"round_index": 1}, {"round_index": 2}]


def test_traffic_adds_up_by_round_and_device(ledger, path):
    ledger.add_traffic(1, {"a": (1, 10), "b": (2, 20)})
    ledger.add_traffic(1, {"a": (100, 1000)})
    ledger.add_traffic(1, {"b": (7, 0)})
    ledger.add_traffic(2, {"a": (5, 5)})
    assert reopened(path).traffic() == {1: {"a": (101, 1010), "b": (9, 20)}, 2: {"a": (5, 5)}}
    assert [reopened(path).traffic_of(index) for index in (1, 2, 3)] == [(110, 1030), (5, 5), (0, 0)]


def test_how_long_a_round_is_open_counts_from_its_first_attempt(ledger, path):
    assert ledger.seconds_since_opening(1) == 0.0
    ledger.open_round(1, 0, 500, (A, B))
    assert 0.0 <= ledger.seconds_since_opening(1) < 60.0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE rounds SET opened_at = datetime('now', '-100 seconds')")  # as a ledger of before has it
    ledger.open_round(1, 1, 500, (B,))
    assert 99.0 <= reopened(path).seconds_since_opening(1) < 160.0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE rounds SET opened_at = datetime('now', '+100 seconds')")
    assert reopened(path).seconds_since_opening(1) == 0.0


def test_a_ledger_of_another_version_is_refused(path):
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match=r"written by another version \(schema 99\); use a new folder"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(UsageError, match=r"is damaged \(file is not a database\): put back a copy"):
        Ledger(path)


def test_reading_a_run_that_is_not_there_says_so_and_makes_nothing(path):
    with pytest.raises(UsageError, match=r"there is no run in .*: no ledger\.sqlite there"):
        Ledger(path, read_only=True)
    assert not path.parent.exists()


def test_an_interrupted_write_leaves_nothing_behind(ledger, path):
    class Unwritable:
        def __iter__(self):
            yield A
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.open_round(1, 0, 500, Unwritable())
    assert reopened(path).opened_round(1) is None
    ledger.open_round(1, 0, 500, (A,))
    assert reopened(path).opened_round(1).assignments == (A,)


def test_accepted_offers_are_given_from_a_round_on_by_round_and_device(ledger, path):
    for index, device, verdict in (
        (1, "b", "accepted"),
        (2, "b", "accepted"),
        (2, "a", "accepted"),
        (2, "c", "rejected"),
    ):
        offer = fakes.offer(fakes.assignment(device, index))
        ledger.record_update(index, offer, receipt(offer, verdict))
    found = [(index, offer.device) for index, offer in reopened(path).accepted_offers(first=2)]
    assert found == [(2, "a"), (2, "b")]
    assert len(reopened(path).accepted_offers(first=1)) == 3


def test_results_are_given_from_a_round_on(ledger, path):
    for index in (1, 2, 3):
        ledger.open_round(index, 0, 500, ())
        ledger.commit_round(index, "ab", {"round_index": index})
    assert reopened(path).results(dict, first=2) == [{"round_index": 2}, {"round_index": 3}]


# --- batches -------------------------------------------------------------------------------------------------------


def test_what_a_batch_writes_is_there_for_others_when_it_ends_and_for_itself_at_once(ledger, path):
    offer = fakes.offer(A)
    with ledger.batch():
        ledger.open_round(1, 0, 500, (A, B))
        ledger.record_update(1, offer, receipt(offer))
        ledger.add_traffic(1, {"a": (1, 2)})
        assert ledger.opened_round(1).accepted == {"a": offer}
        assert reopened(path).opened_round(1) is None
    assert reopened(path).opened_round(1).accepted == {"a": offer}
    assert reopened(path).traffic_of(1) == (1, 2)


def test_what_is_in_the_main_file_inside_a_batch_stays_where_the_rest_of_it_fails(ledger, path):
    def fail() -> None:
        with ledger.batch():
            ledger.open_round(1, 0, 500, (A,))
            ledger.checkpoint()
            assert reopened(path).begun()
            ledger.refuse(Refusal(assignment_id=A.id, device="a", reason="no"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert reopened(path).opened_round(1).refused == frozenset()
    ledger.refuse(Refusal(assignment_id=A.id, device="a", reason="no"))
    assert reopened(path).opened_round(1).refused == {A.id}


def test_a_thousand_verdicts_wait_for_the_disk_once(ledger):
    ended: list[str] = []
    ledger._db.set_trace_callback(lambda text: ended.append(text) if text == "COMMIT" else None)
    with ledger.batch():
        for number in range(1000):
            offer = fakes.offer(fakes.assignment(f"d{number}"))
            ledger.record_update(1, offer, receipt(offer))
    assert ended == ["COMMIT"]
