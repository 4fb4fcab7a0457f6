"""Mappings that are values, for thousands of devices: a change gives a new one and copies a small part of the old.

A `dict` copied at every message costs a fleet of n devices n² in a round; here a change copies one shelf of `SHELVES`.
Who walks through one meets the keys in their order, whatever the order of arrival.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

SHELVES = 128


class Ordered(Hashable, Protocol):
    """What can be a key."""

    def __lt__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=Ordered)
V = TypeVar("V")
_EMPTY: dict[Any, Any] = {}


class Table(Mapping[K, V]):
    """An immutable mapping; `plus` and `minus` give another."""

    __slots__ = ("_count", "_shelves")

    def __init__(self, entries: Mapping[K, V] | None = None) -> None:
        shelves: list[dict[K, V]] = [_EMPTY] * SHELVES
        for key, value in (entries or {}).items():
            number = hash(key) % SHELVES
            if shelves[number] is _EMPTY:
                shelves[number] = {}
            shelves[number][key] = value
        self._shelves = tuple(shelves)
        self._count = len(entries or {})

    def plus(self, key: K, value: V) -> "Table[K, V]":
        """The table with this value for the key."""
        return self._with_shelf(key, self._shelf(key) | {key: value})

    def minus(self, key: K) -> "Table[K, V]":
        """The table without the key."""
        if key not in self:
            return self
        return self._with_shelf(key, {k: v for k, v in self._shelf(key).items() if k != key})

    def _shelf(self, key: object) -> dict[K, V]:
        return self._shelves[hash(key) % SHELVES]

    def _with_shelf(self, key: K, shelf: dict[K, V]) -> "Table[K, V]":
        number = hash(key) % SHELVES
        made: Table[K, V] = Table.__new__(type(self))
        made._shelves = (*self._shelves[:number], shelf, *self._shelves[number + 1 :])
        made._count = self._count + len(shelf) - len(self._shelves[number])
        return made

    def __getitem__(self, key: K) -> V:
        return self._shelf(key)[key]

    def __contains__(self, key: object) -> bool:
        return key in self._shelf(key)

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(key for shelf in self._shelves for key in shelf))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Table({dict(self)!r})"


class Line(Generic[K, V]):
    """Those that wait, each with what it waits for: first come, first served. `join` and `leave` give another line."""

    __slots__ = ("_first", "_next", "_numbers", "_waiting")

    def __init__(self) -> None:
        self._numbers: Table[K, int] = Table()  # drawn as one joins
        self._waiting: Table[int, tuple[K, V]] = Table()  # by number
        self._first = self._next = 0  # the lowest number that may wait, and the next to be drawn

    def join(self, key: K, value: V) -> "Line[K, V]":
        """The line with one more at its end, who may not be in it yet."""
        assert key not in self._numbers, "nobody waits twice"
        return self._made(
            self._numbers.plus(key, self._next), self._waiting.plus(self._next, (key, value)), self._next + 1
        )

    def leave(self, key: K) -> "Line[K, V]":
        """The line without this one, wherever it stood."""
        number = self._numbers.get(key)
        if number is None:
            return self
        return self._made(self._numbers.minus(key), self._waiting.minus(number), self._next)

    def _made(self, numbers: Table[K, int], waiting: Table[int, tuple[K, V]], following: int) -> "Line[K, V]":
        made: Line[K, V] = Line.__new__(type(self))
        made._numbers, made._waiting, made._next = numbers, waiting, following
        made._first = self._first
        while made._first < following and made._first not in waiting:  # each number is passed once
            made._first += 1
        return made

    def first(self) -> tuple[K, V] | None:
        """Who is next, and what it waits for."""
        return self._waiting.get(self._first)

    def get(self, key: K) -> V | None:
        """What one waits for, None where it does not."""
        number = self._numbers.get(key)
        return None if number is None else self._waiting[number][1]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[K]:
        return (self._waiting[number][0] for number in self._waiting)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and list(self._waiting.values()) == list(other._waiting.values())

    def __repr__(self) -> str:
        return f"Line({list(self._waiting.values())!r})"
