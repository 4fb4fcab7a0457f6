"""Tables and lines beside their dumb twins, and that a change does not touch the table it was made from."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.round_state import ANSWERED, Task, Tasks
from aggregator.core.table import SHELVES, Line, Table
from tests import fakes
from tests.fakes import QUICK

KEYS = st.sampled_from([f"d{number}" for number in range(12)])
STEPS = st.lists(st.tuples(st.booleans(), KEYS, st.integers(0, 9)), max_size=60)


@QUICK
@given(STEPS)
def test_a_table_is_what_a_copied_dict_would_be_and_the_ones_before_stay(steps):
    table, twin = Table[str, int](), dict[str, int]()
    history = [(table, twin)]
    for is_more, key, value in steps:
        table = table.plus(key, value) if is_more else table.minus(key)
        twin = twin | {key: value} if is_more else {k: v for k, v in twin.items() if k != key}
        history.append((table, twin))
    for then, as_dict in history:
        assert then == as_dict == Table(as_dict)
        assert list(then.items()) == sorted(as_dict.items())
        assert (len(then), bool(then)) == (len(as_dict), bool(as_dict))
        assert [key in then for key in ("d0", "d5", "e")] == [key in as_dict for key in ("d0", "d5", "e")]


def test_a_key_that_is_not_there_is_an_error_as_in_a_dict():
    with pytest.raises(KeyError, match="b"):
        Table({"a": 1})["b"]
    assert Table({"a": 1}).get("b") is None


def test_a_change_copies_a_small_part_of_a_large_table():
    table = Table({f"d{number}": number for number in range(10_000)})
    after = table.plus("d77", -1)
    shared = sum(a is b for a, b in zip(table._shelves, after._shelves, strict=True))
    assert shared == SHELVES - 1
    assert max(len(shelf) for shelf in table._shelves) < 3 * 10_000 / SHELVES


@QUICK
@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "serve"]), KEYS), max_size=80))
def test_a_line_is_what_a_list_would_be(steps):
    line, twin = Line[str, str](), list[str]()
    for what, key in steps:
        if what == "join" and key not in twin:
            line, twin = line.join(key, f"of {key}"), [*twin, key]
        elif what == "leave":
            line, twin = line.leave(key), [k for k in twin if k != key]
        elif what == "serve" and twin:
            assert line.first() == (twin[0], f"of {twin[0]}")
            line, twin = line.leave(twin[0]), twin[1:]
        assert list(line) == twin
        assert len(line) == len(twin)
        assert [line.get(key) for key in ("d0", "d1")] == [f"of {k}" if k in twin else None for k in ("d0", "d1")]
    assert (line.first() is None) == (not twin)


def test_lines_are_equal_where_the_same_wait_for_the_same_in_the_same_order():
    line = Line[str, int]().join("a", 1).join("b", 2)
    assert line == Line[str, int]().join("x", 0).leave("x").join("a", 1).join("b", 2)
    assert line != Line[str, int]().join("b", 2).join("a", 1)
    assert line != line.leave("b")


@QUICK
@given(st.lists(st.tuples(KEYS, st.sampled_from(["assigned", "checking", *ANSWERED])), max_size=40))
def test_tasks_know_how_many_have_a_status(steps):
    tasks, twin = Tasks(), dict[str, str]()
    for device, status in steps:
        tasks = tasks.plus(device, Task(fakes.assignment(device), status))
        twin[device] = status
    counts = Counter(twin.values())
    for status in ("assigned", "receiving", "checking", *ANSWERED):
        assert tasks.count(status) == Tasks(dict(tasks)).count(status) == counts[status]
    assert tasks.count(*ANSWERED) == sum(counts[status] for status in ANSWERED)
