"""The inbox between threads and a loop, and the worker that reports to it."""

import threading
import time

from device_runtime.surroundings import Arrived, Crashed, Inbox, LinkDown, LinkUp, ThreadWorker


def message(number: int) -> Arrived:
    return Arrived("t", str(number).encode())


def taken(inbox: Inbox) -> list[object]:
    events = []
    while (event := inbox.take()) is not None:
        events.append(event)
    return events


def test_events_come_in_the_order_in_which_they_were_put():
    inbox = Inbox()
    for number in range(3):
        inbox.put(message(number))
    assert taken(inbox) == [message(0), message(1), message(2)]


def test_of_too_many_messages_the_oldest_are_dropped_and_nothing_else():
    inbox = Inbox(count_max=2)
    for event in (LinkUp(), message(1), "outcome", message(2), LinkDown("why"), message(3)):
        inbox.put(event)
    assert taken(inbox) == [LinkUp(), "outcome", LinkDown("why"), message(2), message(3)]


def test_an_empty_inbox_is_waited_for_no_longer_than_asked():
    start = time.monotonic()
    assert Inbox().take(0.05) is None
    assert time.monotonic() - start >= 0.05


def test_what_another_thread_puts_ends_the_waiting():
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [LinkUp()]).start()
    start = time.monotonic()
    assert inbox.take(60.0) == LinkUp()
    assert time.monotonic() - start < 30


def test_a_job_is_done_on_another_thread_and_its_outcome_posted():
    inbox = Inbox()
    ThreadWorker().start(threading.get_ident, inbox.put)
    outcome = inbox.take(60.0)
    assert isinstance(outcome, int)
    assert outcome != threading.get_ident()


def test_a_bug_in_a_job_is_posted_with_its_error():
    inbox = Inbox()

    def job() -> object:
        raise ZeroDivisionError("a bug")

    ThreadWorker().start(job, inbox.put)
    event = inbox.take(60.0)
    assert isinstance(event, Crashed)
    assert isinstance(event.error, ZeroDivisionError)
