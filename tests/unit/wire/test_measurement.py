"""A reading is a number with its source, or absent; it outlives every encoding it passes through."""

import math

import msgspec
import pytest

from device_runtime.wire.measurement import ABSENT, Measurement, Reading, derived, measured, percentile
from tests.fakes import measurement


def test_what_has_no_value_is_absent_and_zero_is_not():
    assert measured(None) == derived(None) == ABSENT
    assert measured(0) == Reading(0, "measured")
    assert derived(0.0) == Reading(0.0, "derived")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_absent(value):
    """The loss of a training that diverged: as NaN it would not survive the JSON of the spool."""
    assert measured(value) == derived(value) == ABSENT
    with pytest.raises(ValueError, match="finite"):
        Reading(value, "measured")


@pytest.mark.parametrize(("value", "source"), [(None, "measured"), (1, "absent"), (None, "derived")])
def test_a_reading_cannot_contradict_itself(value, source):
    with pytest.raises(ValueError, match="exactly when it is not absent"):
        Reading(value, source)


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_a_measurement_comes_back_from_spool_and_wire(codec):
    assert codec.decode(codec.encode(measurement()), type=Measurement) == measurement()


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.07, 7), (0.5, 50), (0.57, 57), (0.99, 99), (1.0, 100)])
def test_a_percentile_of_a_hundred_is_its_number(share, expected):
    assert percentile(range(100, 0, -1), share) == expected


def test_a_percentile_of_nothing_is_none():
    assert percentile([], 0.5) is None
