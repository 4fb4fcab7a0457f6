"""A seat on a timeline: it gives one shell its surroundings and its turns, as `run` does in a process of its own."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from aggregator.simulation.memory_link import MemoryBroker, MemoryLink
from aggregator.simulation.timeline import Timeline
from device_runtime.surroundings import Inbox, Post, Station, Surroundings


class Shell(Protocol):
    """What `Device` and `Aggregator` have in common for whoever drives them."""

    inbox: Inbox

    def begin(self) -> None:
        """Connect."""

    def turn(self, event: object | None) -> None:
        """Take in one event, None where there is none, and let time pass where a tick is due."""

    @property
    def done(self) -> bool:
        """Whether it has nothing left to do."""

    def end(self) -> object:
        """Leave in good order."""


class Seat:
    """One shell on the timeline: a turn for every event, and one every `tick_s`. Its jobs take `work_s`."""

    def __init__(self, broker: MemoryBroker, *, tick_s: float = 1.0, work_s: float = 0.0) -> None:
        self.timeline: Timeline = broker.timeline
        self.surroundings = Surroundings(self._open_link, self.timeline, self)
        self.shell: Shell | None = None
        self.link: MemoryLink | None = None
        self._broker = broker
        self._tick_s = tick_s
        self._work_s = work_s

    def take(self, shell: Shell) -> None:
        """Begin a shell that was made with this seat's surroundings, and serve it until it is done."""
        self.shell = shell
        shell.begin()
        self.timeline.after(self._tick_s, partial(self._tick, shell))

    def start(self, job: Callable[[], object], post: Post) -> None:
        """As a `Worker`: do the job, and post what it gives, when its time is over."""
        shell = self.shell
        self.timeline.after(self._work_s, lambda: self._finish(shell, job, post))

    def _finish(self, shell: Shell | None, job: Callable[[], object], post: Post) -> None:
        if self.shell is shell:
            self._post(post, job())

    def _open_link(self, station: Station, post: Post) -> MemoryLink:
        self.link = self._broker.open_link(station, partial(self._post, post))
        return self.link

    def _post(self, post: Post, event: object) -> None:
        post(event)
        self.timeline.after(0.0, self._turn)

    def _turn(self) -> None:
        if self.shell is not None and (event := self.shell.inbox.take()) is not None:
            self.give(self.shell, event)

    def _tick(self, shell: Shell) -> None:
        if self.shell is shell:
            self.timeline.after(self._tick_s, partial(self._tick, shell))
            self.give(shell, None)

    def give(self, shell: Shell, event: object | None) -> None:
        """One turn of the shell, its last when it is done."""
        shell.turn(event)
        if shell.done:
            self.shell = None
            shell.end()
