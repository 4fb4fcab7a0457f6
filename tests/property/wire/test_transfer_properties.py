"""A blob arrives whole, whatever its size and whatever happens to its chunks on the way."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.wire import limits, transfer
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import Chunk, Get
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.transfer import Download, accept, assemble, chunk_count, request, retry
from tests.fakes import QUICK, cut_chunk

CHUNK = 16
SIZES = st.one_of(
    st.integers(0, 20 * CHUNK),
    st.integers(0, 20).flatmap(lambda k: st.sampled_from([max(0, k * CHUNK + d) for d in (-1, 0, 1)])),
)


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHUNK_BYTES_MAX", CHUNK)
        yield


def content(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def answer(data: bytes, get: Get | None) -> list[Chunk]:
    """What the other end sends for a request: nothing beyond the blob's end."""
    chunks = [cut_chunk(data, get.sha, index) for index in get.indices] if get else []
    return [chunk for chunk in chunks if chunk is not None]


@QUICK
@given(SIZES)
def test_chunks_put_together_are_the_blob(size):
    data = content(size)
    chunks = [cut_chunk(data, "0" * 64, index) for index in range(chunk_count(size))]
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(len(chunk.data) <= CHUNK for chunk in chunks)
    assert cut_chunk(data, "0" * 64, chunk_count(size)) is None


@given(SIZES, st.booleans(), st.integers(0, 2**32))
@settings(QUICK, max_examples=150)
def test_a_blob_arrives_through_loss_duplication_and_any_order(size, size_known, seed):
    chance = random.Random(seed)
    data = content(size)
    start = Download(sha256_hex(data), 1000, size_bytes=size if size_known else None)
    download, get = request(start)
    way = answer(data, get)
    silences = 0
    while not download.complete:
        assert len(download.asked) <= limits.WINDOW_CHUNKS
        if not way:
            silences += 1
            assert silences < 200, "no progress"
            download, get = retry(download)
            way = answer(data, get)
            continue
        chunk = way.pop(chance.randrange(len(way)))
        fate = chance.random()
        if fate < 0.2:
            continue  # lost
        if fate < 0.4:
            way.append(chunk)  # and once more later
        download = accept(download, chunk)
        download, get = request(download)
        way += answer(data, get)
    assert assemble(download) == data
    assert request(download) == (download, None)


@QUICK
@given(SIZES)
def test_without_loss_every_chunk_is_asked_for_once(size):
    data = content(size)
    download, get = request(Download(sha256_hex(data), 1000, size_bytes=size))
    asked = list(get.indices)
    way = answer(data, get)
    while way:
        download, get = request(accept(download, way.pop(0)))
        asked += get.indices if get else ()
        way += answer(data, get)
    assert sorted(asked) == list(range(chunk_count(size)))
    assert download.complete


def test_a_duplicate_changes_nothing():
    data = content(40)
    download, _ = request(Download("0" * 64, 1000))
    once = accept(download, cut_chunk(data, "0" * 64, 1))
    assert accept(once, cut_chunk(data, "0" * 64, 1)) == once


def test_a_blob_that_is_not_its_name_is_refused():
    download = accept(Download("0" * 64, 1000), cut_chunk(b"x", "0" * 64, 0))
    with pytest.raises(RemoteWireError, match="does not match"):
        assemble(download)


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        ((0, 1001, b"x" * CHUNK), "1000 allowed"),
        ((0, 41, b"x" * CHUNK), "changed its size"),
        ((3, 40, b""), "chunk 3"),
        ((1, 40, b"x" * (CHUNK - 1)), "chunk 1"),
        ((1, 40, b"x" * (CHUNK + 1)), "chunk 1"),
        ((2, 40, b"x" * CHUNK), "chunk 2"),
    ],
)
def test_chunks_that_contradict_the_blob_are_refused(chunk, says):
    index, size, data = chunk
    download = Download("0" * 64, 1000, size_bytes=40)
    with pytest.raises(RemoteWireError, match=says):
        accept(download, Chunk(sha="0" * 64, index=index, size_bytes=size, data=data))


def test_a_retry_asks_again_for_what_is_missing_only():
    data = content(5 * CHUNK)
    download, _ = request(Download(sha256_hex(data), 1000, size_bytes=len(data)))
    download = accept(accept(download, cut_chunk(data, download.sha, 0)), cut_chunk(data, download.sha, 3))
    _, get = transfer.retry(download)
    assert get == Get(sha=download.sha, indices=(1, 2, 4))
