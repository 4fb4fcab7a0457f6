"""Which profile a device offers: the named one or that of its folder, a blob of its store; a bad one is told of."""

import logging

import pytest

from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.offered_profile import offered_profile
from device_runtime.profile.record import encode_profile
from device_runtime.store import BlobStore
from device_runtime.wire import limits
from device_runtime.wire.errors import UsageError
from tests.profiles import make_case, make_profile

DATA = encode_profile(make_profile(make_case()))


def settings(folder, profile=""):
    return DeviceSettings(name="pi-1", folder=str(folder), data=DataSettings(source="x.npz"), profile=str(profile))


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


def test_without_a_profile_nothing_is_offered(tmp_path, blobs):
    assert offered_profile(settings(tmp_path), blobs) is None


@pytest.mark.parametrize("is_named", [True, False])
def test_a_profile_is_offered_from_the_store(tmp_path, blobs, is_named):
    path = tmp_path / ("board.json" if is_named else "profile.json")
    path.write_bytes(DATA)
    ref = offered_profile(settings(tmp_path, path if is_named else ""), blobs)
    assert ref is not None
    assert blobs.get(ref.sha) == DATA
    assert ref.size_bytes == len(DATA)


@pytest.mark.parametrize("content", [b"", b"no json", None], ids=["empty", "text", "missing"])
def test_a_named_profile_that_is_none_is_a_sentence_with_its_name(tmp_path, blobs, content):
    path = tmp_path / "board.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"board\.json"):
        offered_profile(settings(tmp_path, path), blobs)


def test_one_that_merely_lies_there_is_left_out_with_a_warning(tmp_path, blobs, caplog):
    (tmp_path / "profile.json").write_bytes(b"no json")
    with caplog.at_level(logging.WARNING, "espalier.device"):
        assert offered_profile(settings(tmp_path), blobs) is None
    assert "no profile is offered" in caplog.text
    assert "profile.json" in caplog.text


def test_one_too_large_to_travel_is_refused_before_it_is_read(tmp_path, blobs, monkeypatch):
    monkeypatch.setattr("device_runtime.offered_profile.PROFILE_BYTES_MAX", len(DATA) - 1)
    (tmp_path / "board.json").write_bytes(DATA)
    with pytest.raises(UsageError, match=f"has {len(DATA)} bytes; {len(DATA) - 1} may travel"):
        offered_profile(settings(tmp_path, tmp_path / "board.json"), blobs)
    assert limits.PROFILE_BYTES_MAX < limits.BLOB_BYTES_MAX
