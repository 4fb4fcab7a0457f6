"""Files are whole or absent, and a blob is what its name says or not there."""

import os
from pathlib import Path

import pytest

from device_runtime.store import ArrivingBlobs, BlobStore, Pack, write_atomic
from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import CHUNK_BYTES_MAX
from device_runtime.wire.support import sha256_hex
from tests import fakes


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


def test_a_write_leaves_the_new_content_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UsageError, match=r"cannot write .*file.*No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b))[1])
    write_atomic(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="cannot write"):
        write_atomic(tmp_path / "file" / "inside", b"x")


def test_a_blob_comes_back_under_its_hash(store):
    sha = store.put(b"content")
    assert sha == sha256_hex(b"content")
    assert store.get(sha) == b"content"
    assert store.get("0" * 64) is None
    assert store.get("0" * 64) is None


@pytest.mark.parametrize("content", [b"", b"other", b"conten"])
def test_a_blob_that_rotted_is_not_returned_and_can_be_put_again(store, content):
    sha = store.put(b"content")
    store.path(sha).write_bytes(content)
    assert store.get(sha) is None
    assert store.put(b"content") == sha
    assert store.get(sha) == b"content"


def test_an_empty_blob_is_a_blob(store):
    assert store.get(store.put(b"")) == b""


def test_only_the_named_blobs_are_kept(store):
    a, b, c = (store.put(text) for text in (b"a", b"b", b"c"))
    store.keep_only([a, c, "0" * 64])
    assert [store.get(sha) for sha in (a, b, c)] == [b"a", None, b"c"]


def test_leftovers_of_a_write_that_was_cut_short_are_no_blobs_and_go(store):
    sha = store.put(b"a")
    leftover = store.path(sha).with_name(f".{sha}.tmp123")
    leftover.write_bytes(b"half")
    store.keep_only([sha])
    assert not leftover.exists()
    assert store.get(sha) == b"a"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 3 * CHUNK_BYTES_MAX])
def test_chunks_read_from_disk_are_those_cut_from_memory(size: int, tmp_path: Path) -> None:
    data = bytes(i % 251 for i in range(size))
    store = BlobStore(tmp_path)
    sha = store.put(data)
    for index in range(5):
        assert store.chunk(sha, index) == fakes.cut_chunk(data, sha, index)
    assert store.chunk("0" * 64, 0) is None


# --- blobs in one file ---------------------------------------------------------------------------------------------

ADDED = [b"one", b"", bytes(range(256)) * 40, b"four"]


def packed(store: BlobStore) -> list[str]:
    return [store.add(data) for data in ADDED]


def test_blobs_that_were_added_are_there_at_once_and_for_another_process(store):
    shas = packed(store)
    store.sync()
    for reader in (store, BlobStore(store.folder)):
        assert [reader.get(sha) for sha in shas] == ADDED
    assert os.listdir(store.folder) == ["pack"]


def test_many_blobs_that_were_added_wait_for_the_disk_twice(store, monkeypatch):
    waits = []
    monkeypatch.setattr("device_runtime.store.os.fsync", waits.append)
    for number in range(1000):
        store.add(str(number).encode())
    store.sync()
    store.sync()
    assert len(waits) == 2, "for the file, and for its name"


def test_a_blob_that_is_here_is_not_added_again(store):
    sha = store.put(b"one")
    assert store.add(b"one") == sha
    packed(store)
    size = (store.folder / "pack").stat().st_size
    packed(store)
    assert (store.folder / "pack").stat().st_size == size


def test_blobs_that_were_added_go_together_when_none_of_them_is_wanted(store):
    shas, kept = packed(store), store.put(b"kept")
    store.keep_only([kept, shas[2]])
    assert [store.get(sha) for sha in shas] == ADDED
    store.keep_only([kept])
    assert [store.get(sha) for sha in shas] == [None] * 4
    assert not (store.folder / "pack").exists()
    assert [store.get(sha) for sha in packed(store)] == ADDED
    assert store.get(kept) == b"kept"


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 43, 44, 45])
def test_an_end_that_was_torn_off_takes_only_what_was_not_whole(store, cut):
    """Heads have 40 bytes: of "four" nothing, a part, its whole head, and a byte of the blob before are missing."""
    shas = packed(store)
    path = store.folder / "pack"
    os.truncate(path, path.stat().st_size - cut)
    again = BlobStore(store.folder)
    whole = ADDED[:3] if cut <= 44 else ADDED[:2]
    assert [again.get(sha) for sha in shas] == whole + [None] * (4 - len(whole))
    assert [again.get(sha) for sha in packed(again)] == ADDED
    assert [BlobStore(store.folder).get(sha) for sha in shas] == ADDED


@pytest.mark.parametrize("lost", ["its bytes", "all of it"])
def test_a_blob_of_which_the_disk_kept_only_zeros_is_absent_and_can_be_added_again(store, lost):
    shas = packed(store)
    path = store.folder / "pack"
    data = bytearray(path.read_bytes())
    start = len(data) - (4 if lost == "its bytes" else 44)
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    again = BlobStore(store.folder)
    assert [again.get(sha) for sha in shas] == [*ADDED[:3], None]
    again.add(b"four")
    assert BlobStore(store.folder).get(shas[3]) == b"four"


def test_a_pack_that_is_noise_holds_nothing_and_ends_nobody(tmp_path):
    path = tmp_path / "pack"
    for noise in (b"", b"short", b"\xff" * 1000, bytes(1000)):
        path.write_bytes(noise)
        pack = Pack(path)
        assert pack.get("f" * 64) is None
        pack.add(sha256_hex(b"x"), b"x")
        assert Pack(path).get(sha256_hex(b"x")) == b"x"


def test_a_pack_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "blobs").write_bytes(b"a file")
    with pytest.raises(UsageError, match=r"cannot write '.*/blobs/pack'"):
        BlobStore(tmp_path / "blobs").add(b"x")


# --- blobs under way -----------------------------------------------------------------------------------------------


def test_a_blob_that_arrives_in_any_order_and_twice_is_the_blob(tmp_path):
    data = bytes(i % 251 for i in range(2 * CHUNK_BYTES_MAX + 77))
    sha = sha256_hex(data)
    arriving = ArrivingBlobs(tmp_path / "arriving")
    for index in (2, 0, 2, 1):
        arriving.write("pi-1", fakes.cut_chunk(data, sha, index))
    assert arriving.take("pi-1", sha) == data
    assert arriving.take("pi-1", sha) is None
    assert os.listdir(arriving.folder) == []


def test_a_blob_that_lacks_a_chunk_or_is_not_its_name_is_not_taken_and_goes(tmp_path):
    data = bytes(CHUNK_BYTES_MAX + 5)
    sha = sha256_hex(data)
    arriving = ArrivingBlobs(tmp_path / "arriving")
    arriving.write("pi-1", fakes.cut_chunk(data, sha, 0))
    arriving.write("pi-2", fakes.cut_chunk(b"else", sha, 0))
    assert arriving.take("pi-1", sha) is arriving.take("pi-2", sha) is None
    assert os.listdir(arriving.folder) == []


def test_nobody_spoils_what_another_sends(tmp_path):
    arriving = ArrivingBlobs(tmp_path / "arriving")
    sha = sha256_hex(b"update")
    arriving.write("pi-1", fakes.cut_chunk(b"update", sha, 0))
    arriving.write("pi-2", fakes.cut_chunk(b"damage", sha, 0))
    arriving.drop("pi-2", sha)
    assert arriving.take("pi-1", sha) == b"update"


def test_what_an_earlier_process_left_half_way_goes(tmp_path):
    sha = sha256_hex(b"update")
    ArrivingBlobs(tmp_path / "arriving").write("pi-1", fakes.cut_chunk(b"update", sha, 0))
    assert ArrivingBlobs(tmp_path / "arriving").take("pi-1", sha) is None
    assert not (tmp_path / "arriving").exists()


def test_a_folder_in_which_nothing_can_arrive_is_named(tmp_path):
    (tmp_path / "arriving").write_bytes(b"a file")
    with pytest.raises(UsageError, match=r"cannot write '.*/arriving/pi-1\."):
        ArrivingBlobs(tmp_path / "arriving").write("pi-1", fakes.cut_chunk(b"", sha256_hex(b""), 0))
