"""What the round machine knows: rules, members, tasks and the state of a round; and that state after a restart."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from aggregator.core.pulls import PullRules, Pulls
from aggregator.core.round_events import Command
from aggregator.core.table import Table
from device_runtime.wire.limits import UPDATE_CHUNKS_MAX, WINDOW_CHUNKS
from device_runtime.wire.messages import Assignment, Hello, Offer, Receipt

SECOND_NS = 1_000_000_000
PULL_RULES = PullRules(UPDATE_CHUNKS_MAX, WINDOW_CHUNKS)

Stage = Literal["gathering", "opening", "open", "closing", "finished"]
TaskStatus = Literal["assigned", "receiving", "checking", "accepted", "rejected", "refused"]
ANSWERED: Final[tuple[TaskStatus, ...]] = ("accepted", "rejected", "refused")


@dataclass(frozen=True, slots=True)
class RoundRules:
    """round_count rounds; the first opens with `devices_min` members. A round closes when every assigned device
    answered, or after `deadline_s` with at least `quorum` accepted updates; below quorum it goes on."""

    round_count: int
    devices_min: int = 1
    quorum: int = 1
    deadline_s: float = 600.0
    missed_max: int = 2
    heartbeat_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Member:
    """A device of the federation, as its last hello described it."""

    hello: Hello
    online: bool = True
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """What one device was assigned this round, and how far its answer is."""

    assignment: Assignment
    status: TaskStatus = "assigned"
    offer: Offer | None = None


class Tasks(Mapping[str, Task]):
    """The task of every device; how many have a status is known without counting. `plus` gives another."""

    __slots__ = ("_by_device", "_counts")

    def __init__(self, tasks: Mapping[str, Task] | None = None) -> None:
        self._by_device = Table(tasks)
        self._counts: Mapping[TaskStatus, int] = Counter(task.status for task in self._by_device.values())

    def plus(self, device: str, task: Task) -> "Tasks":
        """With this task for the device."""
        made = Tasks.__new__(Tasks)
        made._by_device = self._by_device.plus(device, task)
        counts = Counter(self._counts)
        counts[task.status] += 1
        if device in self._by_device:
            counts[self._by_device[device].status] -= 1
        made._counts = counts
        return made

    def count(self, *statuses: TaskStatus) -> int:
        """How many have one of these statuses."""
        return sum(self._counts.get(status, 0) for status in statuses)

    def __getitem__(self, device: str) -> Task:
        return self._by_device[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_device)

    def __len__(self) -> int:
        return len(self._by_device)


@dataclass(frozen=True, slots=True)
class Outsider:
    """A device that waits outside: for none of the engines it named can an artifact be made."""

    engines: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class RoundState:
    """All the aggregator's decisions rest on. `receipts` are the final words given, by (assignment id, update sha)."""

    rules: RoundRules
    round_index: int = 1
    stage: Stage = "gathering"
    attempt: int = 0
    members: Table[str, Member] = field(default_factory=Table)
    outsiders: Table[str, Outsider] = field(default_factory=Table)
    tasks: Tasks = field(default_factory=Tasks)
    update_bytes_max: int = 0
    deadline_ns: int = 0
    receipts: Table[tuple[str, str], Receipt] = field(default_factory=Table)
    pulls: Pulls = field(default=Pulls(PULL_RULES))


@dataclass(frozen=True, slots=True)
class OpenedRound:
    """A round on record: its assignments, the offers accepted so far, every receipt given, every refusal (by id)."""

    round_index: int
    attempt: int
    update_bytes_max: int
    assignments: tuple[Assignment, ...]
    accepted: Mapping[str, Offer]
    receipts: Mapping[tuple[str, str], Receipt]
    refused: frozenset[str]


Step = tuple[RoundState, list[Command]]


def set_task(state: RoundState, device: str, task: Task) -> RoundState:
    """The state with another task for a device."""
    return replace(state, tasks=state.tasks.plus(device, task))


def resume(
    rules: RoundRules, members: Iterable[Hello], rounds_committed: int, opened: OpenedRound | None, now_ns: int
) -> RoundState:
    """The state after a restart, from what the ledger holds: who is a member, and the round that was under way.

    Members count as offline until they are heard; an open round gets a fresh deadline.
    """
    known = Table({hello.device: Member(hello, online=False) for hello in members})
    state = RoundState(rules, round_index=rounds_committed + 1, members=known)
    if rounds_committed >= rules.round_count:
        return replace(state, stage="finished")
    if opened is None:
        return state
    answered = opened.refused | {assignment_id for assignment_id, _ in opened.receipts}
    tasks = {}
    for assignment in opened.assignments:
        status: TaskStatus = "rejected" if assignment.id in answered else "assigned"
        if assignment.device in opened.accepted:
            status = "accepted"
        tasks[assignment.device] = Task(assignment, status, opened.accepted.get(assignment.device))
    return replace(
        state,
        stage="open",
        attempt=opened.attempt,
        tasks=Tasks(tasks),
        update_bytes_max=opened.update_bytes_max,
        deadline_ns=now_ns + int(rules.deadline_s * SECOND_NS),
        receipts=Table(opened.receipts),
    )
