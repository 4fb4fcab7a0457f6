"""Pulling profiles: once, a few at a time, through silence; what is broken is told of once and left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core import profiles
from aggregator.core.profiles import KeepProfile, ProfileState
from aggregator.core.pulls import SILENCE_NS, SILENCES_MAX
from aggregator.core.round_events import DropChunks, Note, Send, WriteChunk
from device_runtime.wire import limits
from device_runtime.wire.messages import BlobRef, Chunk, Get, Goodbye, Hello, Message
from device_runtime.wire.support import sha256_hex
from tests import fakes
from tests.fakes import QUICK, MemoryArrivals, cut_chunk

PROFILE = bytes(range(250))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Chunks of 20 bytes: the profile has 13."""
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 20)


def ref(data: bytes = PROFILE, **changed: object) -> BlobRef:
    return BlobRef(**({"sha": sha256_hex(data), "size_bytes": len(data)} | changed))


def hello(device: str = "pi-1", profile: BlobRef | None = None, session: str = "s1") -> Hello:
    return Hello(device=device, session=session, engines=("fake",), sample_count=1, version="0", profile=profile)


class Puller:
    """The machine, its clock, and devices that answer from memory."""

    def __init__(self, settled: dict[str, str] | None = None) -> None:
        self.state = ProfileState(settled=settled or {})
        self.arriving = MemoryArrivals()
        self.now_ns = 0
        self.kept: list[tuple[str, bytes | None]] = []
        self.spoilt: list[tuple[str, bytes | None]] = []
        self.notes: list[str] = []
        self.asked: list[tuple[str, Get]] = []

    def hears(self, device: str, message: Message) -> None:
        self._done(profiles.heard(self.state, device, message, self.now_ns))

    def waits(self, ns: int = SILENCE_NS) -> None:
        self.now_ns += ns
        self._done(profiles.tick(self.state, self.now_ns))

    def _done(self, step: profiles.Step) -> None:
        self.state, commands = step
        for command in commands:
            match command:
                case Send(device, Get() as get):
                    self.asked.append((device, get))
                case WriteChunk(device, chunk):
                    self.arriving.write(device, chunk)
                case DropChunks(device, sha):
                    self.arriving.drop(device, sha)
                case KeepProfile(device, sha):
                    data = self.arriving.take(device, sha)
                    (self.spoilt if data is None else self.kept).append((device, data))
                case Note(text):
                    self.notes.append(text)
                case _:
                    raise AssertionError(command)

    def answers(self, device: str, data: bytes = PROFILE) -> None:
        """The device answers everything it was asked so far, and is asked more of by that."""
        while mine := [get for d, get in self.asked if d == device]:
            self.asked = [(d, get) for d, get in self.asked if d != device]
            for get in mine:
                for index in get.indices:
                    chunk = cut_chunk(data, get.sha, index)
                    if chunk is not None:
                        self.hears(device, chunk)


def test_a_profile_is_pulled_chunk_after_chunk_and_kept():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    assert [get.indices for _, get in puller.asked] == [(0,)], "one at a time: updates come first"
    puller.answers("pi-1")
    assert puller.kept == [("pi-1", PROFILE)]
    assert puller.notes == []


def test_what_is_kept_is_not_asked_for_again_and_a_new_one_is():
    puller = Puller(settled={"pi-1": ref().sha})
    puller.hears("pi-1", hello(profile=ref()))
    assert puller.asked == []
    puller.hears("pi-1", hello(profile=ref(b"another")))
    puller.answers("pi-1", b"another")
    assert puller.kept == [("pi-1", b"another")]


def test_a_hello_without_a_profile_asks_for_nothing():
    puller = Puller()
    puller.hears("pi-1", hello())
    assert (puller.asked, puller.notes) == ([], [])


def test_a_heartbeat_does_not_begin_a_pull_anew():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    puller.hears("pi-1", hello(profile=ref()))
    assert len(puller.asked) == 1


def test_after_a_silence_it_asks_again_for_what_is_lacking():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    puller.hears("pi-1", cut_chunk(PROFILE, ref().sha, 0))
    puller.asked.clear()
    puller.waits(SILENCE_NS - 1)
    assert puller.asked == []
    puller.waits(1)
    assert [get.indices for _, get in puller.asked] == [(1,)]
    puller.answers("pi-1")
    assert puller.kept == [("pi-1", PROFILE)]


def test_a_silent_device_gives_its_place_to_the_next_and_is_taken_up_by_its_next_hello():
    puller = Puller()
    for name in ("pi-1", "pi-2", "pi-3"):
        puller.hears(name, hello(name, ref()))
    assert {device for device, _ in puller.asked} == {"pi-1", "pi-2"}, "two at a time"
    puller.asked.clear()
    for _ in range(SILENCES_MAX):
        puller.waits()
    assert "pi-3" in {device for device, _ in puller.asked}
    puller.asked.clear()
    puller.hears("pi-1", hello("pi-1", ref()))
    puller.answers("pi-1")
    assert puller.kept == [("pi-1", PROFILE)]


def test_progress_resets_the_count_of_silences():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    for index in range(3 * SILENCES_MAX):
        puller.waits()
        if index % (SILENCES_MAX - 1) == 0:
            puller.hears("pi-1", cut_chunk(PROFILE, ref().sha, index // (SILENCES_MAX - 1)))
    assert "pi-1" in puller.state.pulls.under_way


def test_a_place_is_not_held_by_the_same_chunk_again_and_again():
    puller = Puller()
    for name in ("pi-1", "pi-2", "pi-3"):
        puller.hears(name, hello(name, ref()))
    for _ in range(SILENCES_MAX + 1):
        for name in ("pi-1", "pi-2"):
            puller.hears(name, cut_chunk(PROFILE, ref().sha, 0))
        puller.waits()
    assert "pi-3" in puller.state.pulls.under_way


def test_a_device_that_names_another_profile_with_every_hello_holds_nobody_up():
    puller = Puller()
    for number in range(100):
        for name in ("pi-1", "pi-2"):
            puller.hears(name, hello(name, ref(sha=fakes.sha(f"{name} {number}"))))
        if number == 50:
            puller.hears("pi-3", hello("pi-3", ref()))
        puller.answers("pi-3")
    assert puller.kept == [("pi-3", PROFILE)]
    assert len(puller.state.pulls.under_way) <= limits.PROFILE_CHUNKS_MAX
    assert len(puller.state.pulls.waiting) + len(puller.state.settled) <= 3
    assert puller.notes == []


def test_an_oversized_one_is_told_of_once_and_never_asked_for():
    puller = Puller()
    for _ in range(3):
        puller.hears("pi-1", hello(profile=ref(size_bytes=limits.PROFILE_BYTES_MAX + 1)))
    assert puller.asked == []
    assert len(puller.notes) == 1
    assert f"more than {limits.PROFILE_BYTES_MAX}" in puller.notes[0]


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(sha=ref().sha, index=0, size_bytes=251, data=bytes(20)),
        Chunk(sha=ref().sha, index=0, size_bytes=250, data=bytes(19)),
        Chunk(sha=ref().sha, index=13, size_bytes=250, data=bytes(20)),
    ],
    ids=["another size", "a short chunk", "beyond the end"],
)
def test_a_chunk_that_contradicts_the_hello_ends_it_with_a_word(chunk):
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    puller.asked.clear()
    puller.hears("pi-1", chunk)
    puller.hears("pi-1", hello(profile=ref(), session="s2"))
    puller.waits()
    assert puller.asked == []
    assert len(puller.notes) == 1
    assert puller.notes[0].startswith("the profile of pi-1 is ignored: ")


def test_bytes_that_do_not_match_their_sha_are_ignored_until_another_sha_is_said():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    puller.answers("pi-1", bytes(250))
    assert (puller.kept, puller.spoilt) == ([], [("pi-1", None)])
    puller.hears("pi-1", hello(profile=ref(), session="s2"))
    assert puller.asked == []
    puller.hears("pi-1", hello(profile=ref(b"mended"), session="s3"))
    puller.answers("pi-1", b"mended")
    assert puller.kept == [("pi-1", b"mended")]


def test_a_profile_that_changes_under_way_is_pulled_in_its_new_form():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    old = puller.asked.copy()
    puller.asked.clear()
    puller.hears("pi-1", hello(profile=ref(b"new"), session="s2"))
    for index in old[0][1].indices:
        puller.hears("pi-1", cut_chunk(PROFILE, ref().sha, index))
    puller.answers("pi-1", b"new")
    assert puller.kept == [("pi-1", b"new")]


def test_a_goodbye_frees_the_place():
    puller = Puller()
    for name in ("pi-1", "pi-2", "pi-3"):
        puller.hears(name, hello(name, ref()))
    puller.hears("pi-1", Goodbye(device="pi-1", session="s1"))
    assert "pi-1" not in puller.state.pulls.under_way
    assert "pi-3" in puller.state.pulls.under_way


def test_messages_that_are_no_business_of_it_change_nothing():
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    before, puller.asked = puller.state, []
    puller.hears("pi-1", hello("pi-2", ref(b"x")))  # on the topic of another device
    puller.hears("pi-2", cut_chunk(PROFILE, ref().sha, 0))
    puller.hears("pi-1", fakes.offer())
    puller.waits(1)
    assert puller.state == before
    assert puller.asked == []


@QUICK
@given(st.lists(st.sampled_from(["answer", "lose", "twice", "reverse", "hello", "wait"]), max_size=40))
def test_whatever_is_lost_or_doubled_the_profile_is_kept_once(steps):
    puller = Puller()
    puller.hears("pi-1", hello(profile=ref()))
    for what in steps:
        if what == "hello":
            puller.hears("pi-1", hello(profile=ref()))
            continue
        if what == "wait":
            puller.waits()
            continue
        indices = [index for _, get in puller.asked for index in get.indices]
        puller.asked = []
        order = {"answer": indices, "lose": [], "twice": indices * 2, "reverse": indices[::-1]}[what]
        for index in order:
            if chunk := cut_chunk(PROFILE, ref().sha, index):
                puller.hears("pi-1", chunk)
    for _ in range(SILENCES_MAX):  # from here on nothing is lost
        puller.waits()
        puller.hears("pi-1", hello(profile=ref()))
        puller.answers("pi-1")
    assert puller.kept == [("pi-1", PROFILE)]
    assert puller.notes == []
