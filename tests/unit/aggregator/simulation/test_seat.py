"""Simulated time and the turns that a shell gets on it."""

from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.seat import Seat
from aggregator.simulation.timeline import SECOND_NS, Timeline
from device_runtime.surroundings import Arrived, Inbox, LinkUp, Station


class Diary:
    """A shell that writes down its turns, and is done when it is told so."""

    def __init__(self, seat: Seat, *topics: str) -> None:
        self.inbox = Inbox()
        self.turns: list[tuple[float, object]] = []
        self.ended = 0
        self._seat = seat
        self.link = seat.surroundings.open_link(Station(f"client {id(self)}", topics), self.inbox.put)

    def begin(self) -> None:
        self.link.connect()

    def turn(self, event: object | None) -> None:
        self.turns.append((self._seat.surroundings.clock.monotonic_ns() / SECOND_NS, event))

    @property
    def done(self) -> bool:
        return bool(self.turns) and self.turns[-1][1] == Arrived("t", b"go")

    def end(self) -> None:
        self.ended += 1
        self.link.close()


def made(*, tick_s: float = 10.0, work_s: float = 0.0) -> tuple[Timeline, MemoryBroker, Seat, Diary]:
    timeline = Timeline()
    broker = MemoryBroker(timeline, delay_s=0.5)
    seat = Seat(broker, tick_s=tick_s, work_s=work_s)
    diary = Diary(seat, "t")
    seat.take(diary)
    return timeline, broker, seat, diary


def test_things_happen_in_the_order_of_their_time_and_then_of_asking():
    timeline = Timeline()
    said = []
    for seconds, word in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        timeline.after(seconds, lambda word=word: said.append((word, timeline.monotonic_ns())))
    assert not timeline.run(lambda: False, 1.5)
    assert said == [("a", SECOND_NS), ("b", SECOND_NS)]
    assert timeline.run(lambda: len(said) == 3, 10.0)
    assert said[2] == ("c", 2 * SECOND_NS)


def test_every_event_is_a_turn_and_time_passes_without_any():
    timeline, broker, _, diary = made()
    timeline.after(3.0, lambda: broker.publish("somebody", "t", b"x"))
    timeline.run(lambda: False, 25.0)
    assert diary.turns == [(0.0, LinkUp()), (3.5, Arrived("t", b"x")), (10.0, None), (20.0, None)]


def test_a_job_is_done_when_its_time_is_over_and_its_outcome_is_a_turn():
    timeline, _, seat, diary = made(work_s=4.0)
    began = []
    seat.surroundings.worker.start(lambda: began.append(timeline.monotonic_ns()) or "outcome", diary.inbox.put)
    timeline.run(lambda: False, 5.0)
    assert began == [4 * SECOND_NS]
    assert diary.turns == [(0.0, LinkUp()), (4.0, "outcome")]


def test_a_shell_that_is_done_ends_and_gets_no_more_turns():
    timeline, broker, seat, diary = made(work_s=4.0)
    seat.surroundings.worker.start(lambda: "too late", diary.inbox.put)
    for word in (b"go", b"more"):
        broker.publish("somebody", "t", word)
    timeline.run(lambda: False, 60.0)
    assert [event for _, event in diary.turns] == [LinkUp(), Arrived("t", b"go")]
    assert diary.ended == 1
    assert seat.shell is None
