"""The record: a value is a number exactly when it is not absent, and a profile survives its JSON."""

import math

import msgspec
import pytest

from device_runtime.profile.record import encode_profile, read_profile
from device_runtime.profile.values import Value, absent, derived, measured
from device_runtime.wire.errors import UsageError


def test_absent_measured_and_derived_are_three_things():
    assert measured(1.5, "W") == Value(value=1.5, unit="W", source="measured")
    assert derived(2, "1").source == "derived"
    assert measured(None, "W", reason="no sensor") == absent("W", "no sensor")
    assert derived(math.nan, "1").source == "absent"


@pytest.mark.parametrize(("value", "source"), [(None, "measured"), (1.0, "absent"), (math.inf, "measured")])
def test_a_value_that_contradicts_itself_is_refused(value, source):
    with pytest.raises(ValueError, match="a value is"):
        Value(value=value, unit="1", source=source)


def test_json_that_contradicts_itself_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"value": 3, "unit": "1", "source": "absent"}', type=Value)


def test_a_profile_survives_its_json(tmp_path, make_profile):
    profile = make_profile()
    (tmp_path / "a.json").write_bytes(encode_profile(profile))
    assert read_profile(tmp_path / "a.json") == profile


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"format": "other"}, {"surprise": 1}, {"cases": [{}]}], ids=lambda c: next(iter(c))
)
def test_another_record_is_refused_with_its_name(tmp_path, make_profile, change):
    loose = msgspec.json.decode(encode_profile(make_profile())) | change
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(loose))
    with pytest.raises(UsageError, match=r"a\.json.*is no profile of version 1"):
        read_profile(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match="is no profile"):
        read_profile(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json.*cannot be read"):
        read_profile(tmp_path / "gone.json")
