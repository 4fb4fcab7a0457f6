"""A registry reads a rule from a table, says what exists when it cannot, and takes a rule more from anywhere."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import msgspec
import numpy as np
import pytest

from aggregator.core import registry
from aggregator.core.criteria import CRITERIA
from aggregator.core.registry import Registry, Rule, kind_of, registry_of
from aggregator.core.weighting import WEIGHTINGS, Cgsv, UniformWeights, Weighting
from aggregator.federation import Federation
from aggregator.settings import load_settings
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData
from device_runtime.wire.errors import UsageError


@runtime_checkable
class Shape(Protocol):
    """A part for these tests."""

    def corners(self) -> int:
        """How many."""


class Polygon(Rule, frozen=True, tag="polygon"):
    sides: int = 3
    colour: str = "red"

    def __post_init__(self) -> None:
        if self.sides < 3:
            raise UsageError(f"sides is {self.sides}; give at least 3")

    def corners(self) -> int:
        return self.sides


class Circle(Rule, frozen=True, tag="circle"):
    def corners(self) -> int:
        return 0


class Framed(Rule, frozen=True, tag="framed"):
    """A rule that holds another."""

    inside: Shape

    def corners(self) -> int:
        return 4 + self.inside.corners()


@pytest.fixture
def shapes(monkeypatch):
    """A registry of its own, forgotten after the test."""
    monkeypatch.setattr(registry, "_BY_PROTOCOL", dict(registry._BY_PROTOCOL))
    made: Registry[Shape] = Registry("shape", Shape)
    for type_ in (Polygon, Circle, Framed):
        assert made.rule(type_) is type_, "a decorator"
    return made


def test_a_rule_is_read_from_its_name_or_its_table(shapes):
    assert shapes.read("polygon") == shapes.read({"kind": "polygon"}) == Polygon()
    assert shapes.read({"kind": "polygon", "sides": 5}) == Polygon(sides=5)
    assert shapes.read({"kind": "framed", "inside": "circle"}) == Framed(inside=Circle())
    assert kind_of(shapes.read("circle")) == "circle"
    assert shapes.kinds == ("circle", "framed", "polygon")
    assert shapes.types["circle"] is Circle
    assert registry_of(Shape) is shapes
    assert registry_of(int) is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("blob", "^kind is 'blob'; use one of circle, framed, polygon$"),
        ({"kind": "blob", "sides": 3}, "^kind is 'blob'; use one of circle, framed, polygon$"),
        ({"kind": ["circle"]}, r"^kind is \['circle'\]; use one of circle, framed, polygon$"),
        ({"sides": 3}, "^kind is missing; use one of circle, framed, polygon$"),
        (3, "^a table with kind = one of circle, framed, polygon is needed, not 3$"),
        ({"kind": "polygon", "sites": 4}, "^unknown key 'sites' of kind 'polygon'; its keys: sides, colour$"),
        ({"kind": "circle", "sides": 4}, "^unknown key 'sides' of kind 'circle'; its keys: none but that$"),
        ({"kind": "polygon", "sides": "four"}, "^sides: Expected `int`, got `str`$"),
        ({"kind": "polygon", "sides": 2}, "^sides is 2; give at least 3$"),
        ({"kind": "framed", "inside": "blob"}, "^inside: kind is 'blob'; use one of circle, framed, polygon$"),
        ({"kind": "framed", "inside": {"kind": "polygon", "sides": 2}}, "^inside: sides is 2; give at least 3$"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_one_sentence_that_says_what_would_be_right(shapes, table, words):
    with pytest.raises(ValueError, match=words):
        shapes.read(table)


def test_a_later_registration_replaces_the_one_before(shapes):
    @shapes.rule
    class Round(Rule, frozen=True, tag="circle"):
        radius: float = 1.0

        def corners(self) -> int:
            return 0

    assert shapes.kinds == ("circle", "framed", "polygon")
    assert shapes.read({"kind": "circle", "radius": 2.0}) == Round(radius=2.0)


BASE = """
[run]
folder = "RUN"
seed = 3
[input]
shape = [1, 8, 8]
[link]
allow_unsigned = true
"""


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[weighting]\nkind = "votes"', r"\[weighting\] kind is 'votes'; use one of cgsv, samples, uniform"),
        ('[weighting]\nscore_scale = "log"', r"\[weighting\] score_scale: .*'log'; use one of literal, share"),
        ("[weighting]\ngamma0 = 1.5", r"\[weighting\] gamma0 is 1\.5; give a number from 0 to 1"),
        ("[pruning]\nlayers = 3", r"\[pruning\.layers\] a table with kind = one of er, .* is needed, not 3"),
        ('[topology.growth]\nkind = "x"', r"\[topology\] growth: kind is 'x'; use one of random"),
        ("[method]\nrecipe = [1]", r"\[method\] recipe is \[1\]; use one of fedavg, feddst, fedprox, thesis"),
    ],
    ids=str,
)
def test_a_settings_file_says_the_table_the_key_and_what_exists(table, words):
    with pytest.raises(UsageError, match=rf"^s\.toml: {words}\.$"):
        load_settings(Path("s.toml"), BASE + table)


class Heard(msgspec.Struct, frozen=True):
    """By device, how often it was heard."""

    times: dict[str, int] = {}


@pytest.fixture
def toys(monkeypatch):
    """Two rules as a user writes them, one file each: registered here, gone after the test."""
    for known in (CRITERIA, WEIGHTINGS):
        monkeypatch.setattr(known, "_types", dict(known._types))

    @CRITERIA.rule
    class Smallest(Rule, frozen=True, tag="smallest"):
        """Small weights stay."""

        def scores(self, theta: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
            return {name: -np.abs(theta[name]) for name in names}

    @WEIGHTINGS.rule
    class ByAttendance(Rule, frozen=True, tag="attendance"):
        """Who was there more often counts more."""

        Remembered: ClassVar[type[msgspec.Struct]] = Heard

        bonus: int = 1

        def start(self) -> Heard:
            return Heard()

        def join(self, known: Heard, sample_counts: Mapping[str, int]) -> Heard:
            return Heard(dict.fromkeys(sample_counts, 0) | known.times)

        def weights(self, known: Heard) -> Mapping[str, float]:
            total = sum(self.bonus + n for n in known.times.values())
            return {device: (self.bonus + n) / total for device, n in known.times.items()}

        def learn(self, known: Heard, scores: Mapping[str, float]) -> Heard:
            return Heard({device: n + (device in scores) for device, n in known.times.items()})

    return Smallest, ByAttendance


RUN = (
    BASE
    + """
[training]
local_epochs = 1
[rounds]
count = 2
[pruning]
sparsity = 0.5
layers = "uniform"
criterion = "smallest"
[topology]
kind = "static"
[weighting]
kind = "attendance"
bonus = 2
"""
)


def some_data(seed):
    draws = np.random.default_rng(seed)
    return LocalData(draws.random((8, 1, 8, 8), dtype=np.float32), draws.integers(0, 10, 8), f"data {seed}")


@pytest.mark.usefixtures("toys")
def test_a_rule_of_ones_own_is_chosen_by_name_and_trains_as_any_other(tmp_path):
    settings = load_settings(Path("s.toml"), RUN)
    assert kind_of(settings.pruning.criterion) == "smallest"
    assert isinstance(settings.weighting, Weighting)
    ended = run_in_process(settings, {"a": some_data(1), "b": some_data(2)}, tmp_path, "portable")
    assert ended.state.memory.record == {"weighting": {"times": {"a": 2, "b": 2}}}
    assert [dict(outcome.weights) for outcome in ended.outcomes] == [{"a": 0.5, "b": 0.5}] * 2
    # The mask is by the initial weights and static: at a half, what is not the smallest is the largest.
    by_magnitude = load_settings(Path("s.toml"), RUN.replace('"smallest"', '"magnitude"'))
    largest = Federation(by_magnitude, tmp_path / "other").start().model.masks
    for name, mask in ended.state.model.masks.items():
        assert np.array_equal(mask, ~largest[name])


@pytest.mark.usefixtures("toys")
def test_a_rule_of_ones_own_is_listed_where_an_error_says_what_exists():
    with pytest.raises(UsageError, match="use one of attendance, cgsv, samples, uniform"):
        load_settings(Path("s.toml"), RUN.replace('"attendance"', '"absence"'))
    with pytest.raises(UsageError, match=r"\[pruning\.criterion\] kind is 'largest'; use one of magnitude, smallest"):
        load_settings(Path("s.toml"), RUN.replace('"smallest"', '"largest"'))
    with pytest.raises(UsageError, match="unknown key 'bones' of kind 'attendance'; its keys: bonus"):
        load_settings(Path("s.toml"), RUN.replace("bonus", "bones"))


def test_the_rules_of_a_test_are_gone_after_it():
    assert "attendance" not in WEIGHTINGS.kinds
    assert "smallest" not in CRITERIA.kinds
    assert (WEIGHTINGS.types["cgsv"], WEIGHTINGS.types["uniform"]) == (Cgsv, UniformWeights)
