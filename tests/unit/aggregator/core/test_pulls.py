"""The pull machine: its places are bounded, its line is fair, and what can be pulled arrives, whatever is lost."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core import pulls
from aggregator.core.pulls import SILENCE_NS, SILENCES_MAX, PullRules, Pulls
from aggregator.core.round_events import DropChunks, PullCommand, Send, WriteChunk
from device_runtime.wire import limits
from device_runtime.wire.messages import BlobRef, Chunk, Get
from device_runtime.wire.support import sha256_hex
from tests.fakes import QUICK, MemoryArrivals, cut_chunk

CHUNK = 4
RULES = PullRules(chunks_max=6, window_chunks=2)


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHUNK_BYTES_MAX", CHUNK)
        yield


def blob(device: str, chunk_count: int) -> bytes:
    return (device.encode() * CHUNK * chunk_count)[: CHUNK * chunk_count]


def ref(data: bytes) -> BlobRef:
    return BlobRef(sha=sha256_hex(data), size_bytes=len(data))


@dataclass
class Puller:
    """The machine, its clock, its disk, and devices of which each holds one blob."""

    rules: PullRules = RULES
    held: dict[str, bytes] = field(default_factory=dict)
    arriving: MemoryArrivals = field(default_factory=MemoryArrivals)
    way: list[tuple[str, Get]] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.pulls = Pulls(self.rules)

    def ask(self, device: str, chunk_count: int = 3) -> None:
        self.held[device] = blob(device, chunk_count)
        self.done(*pulls.ask(self.pulls, device, ref(self.held[device]), self.now_ns))

    def hears(self, device: str, chunk: Chunk) -> None:
        outcome = pulls.take_in(self.pulls, device, chunk, self.now_ns)
        self.done(outcome.pulls, outcome.commands)
        if outcome.whole:
            data = self.arriving.take(device, chunk.sha)
            self.ended[device] = "whole" if data == self.held[device] else "spoilt"
        elif outcome.fault:
            self.ended[device] = outcome.fault
        assert {device for device, _ in self.arriving.written} <= set(self.pulls.under_way)

    def answer(self, device: str, index: int) -> None:
        data = self.held[device]
        chunk = cut_chunk(data, sha256_hex(data), index)
        if chunk is not None:
            self.hears(device, chunk)

    def waits(self, ns: int = SILENCE_NS) -> None:
        self.now_ns += ns
        after, commands, given_up = pulls.tick(self.pulls, self.now_ns)
        self.done(after, commands)
        self.ended |= dict.fromkeys(given_up, "given up")

    def drop(self, device: str) -> None:
        self.done(*pulls.drop(self.pulls, device, self.now_ns))

    def done(self, after: Pulls, commands: list[PullCommand]) -> None:
        self.started += [d for d in after.under_way if d not in self.pulls.under_way]
        self.pulls = after
        for command in commands:
            match command:
                case WriteChunk(device, chunk):
                    self.arriving.write(device, chunk)
                case DropChunks(device, sha):
                    self.arriving.drop(device, sha)
                case Send(device, Get() as get):
                    self.way.append((device, get))
        chunks_under_way = sum(len(pull.download.asked) for pull in after.under_way.values())
        assert chunks_under_way <= self.rules.chunks_max
        assert all(len(pull.download.asked) <= self.rules.window_chunks for pull in after.under_way.values())


def test_places_are_given_in_the_order_of_asking():
    puller = Puller()
    for device in "edcba":
        puller.ask(device)
    assert list(puller.pulls.under_way) == ["e", "d", "c"], "three windows of two chunks are six places"
    assert list(puller.pulls.waiting) == ["b", "a"]
    for index in range(3):
        puller.answer("d", index)
    assert puller.ended == {"d": "whole"}
    assert list(puller.pulls.under_way) == ["e", "c", "b"]


def test_small_blobs_take_few_places():
    puller = Puller()
    for number in range(8):
        puller.ask(f"d{number}", chunk_count=1)
    assert len(puller.pulls.under_way) == 6


def test_a_small_one_does_not_overtake_a_large_one():
    puller = Puller()
    puller.ask("a")
    puller.ask("b")
    puller.ask("c", chunk_count=1)
    puller.ask("large")
    puller.ask("small", chunk_count=1)
    assert list(puller.pulls.waiting) == ["large", "small"], "one place is free, and large needs two"


def test_who_asks_again_keeps_its_place_in_the_line():
    puller = Puller()
    for device in "abcde":
        puller.ask(device)
    puller.ask("d")
    assert list(puller.pulls.waiting) == ["d", "e"]


def test_who_asks_for_another_blob_begins_anew_at_the_end_of_the_line():
    puller = Puller()
    for device in "abcd":
        puller.ask(device)
    puller.answer("a", 0)
    puller.ask("a", chunk_count=2)
    assert list(puller.pulls.under_way) == ["b", "c", "d"]
    assert list(puller.pulls.waiting) == ["a"]
    assert puller.arriving.written == {}


def test_to_ask_again_for_what_is_under_way_asks_for_what_is_lacking_and_counts_as_silence():
    puller = Puller()
    puller.ask("a")
    puller.answer("a", 0)
    puller.way.clear()
    for _ in range(SILENCES_MAX):
        puller.waits(SILENCE_NS - 1)
        puller.ask("a")
        assert [get.indices for _, get in puller.way[-1:]] == [(1, 2)]
        puller.waits(1)
    assert puller.ended == {"a": "given up"}


def test_a_chunk_that_is_here_already_changes_nothing():
    puller = Puller()
    puller.ask("a")
    puller.answer("a", 0)
    before = puller.pulls
    puller.answer("a", 0)
    assert puller.pulls == before


@pytest.mark.parametrize("device", ["b", "stranger"])
def test_chunks_count_from_whom_they_were_asked_of_only(device):
    puller = Puller()
    puller.ask("a")
    puller.ask("b")
    before = puller.pulls
    chunk = cut_chunk(puller.held["a"], sha256_hex(puller.held["a"]), 0)
    assert pulls.take_in(before, device, chunk, 0) == pulls.Outcome(before, [])


def test_a_chunk_that_lies_ends_the_pull_and_frees_its_places():
    puller = Puller()
    for device in "abcd":
        puller.ask(device)
    puller.answer("a", 0)
    puller.hears("a", Chunk(sha=sha256_hex(puller.held["a"]), index=1, size_bytes=13, data=bytes(CHUNK)))
    assert "changed its size" in puller.ended["a"]
    assert list(puller.pulls.under_way) == ["b", "c", "d"]
    assert puller.arriving.written == {}


def test_what_is_dropped_is_gone_wherever_it_is():
    puller = Puller()
    for device in "abcde":
        puller.ask(device)
    puller.answer("a", 0)
    puller.drop("e")
    puller.drop("a")
    puller.drop("nobody")
    assert list(puller.pulls.under_way) == ["b", "c", "d"]
    assert list(puller.pulls.waiting) == []
    puller.answer("b", 0)
    assert pulls.drop_all(puller.pulls) == (
        Pulls(RULES),
        [DropChunks(d, sha256_hex(puller.held[d])) for d in "bcd"],
    )


def test_silent_devices_give_their_places_to_those_that_wait():
    puller = Puller()
    for device in "abcd":
        puller.ask(device)
    for _ in range(SILENCES_MAX):
        puller.waits()
    assert puller.ended == dict.fromkeys("abc", "given up")
    assert list(puller.pulls.under_way) == ["d"]


@QUICK
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.integers(2, 6),
    st.integers(1, 2),
    st.floats(0, 0.4),
    st.integers(0, 2**32),
)
def test_what_is_offered_again_until_it_is_here_arrives_whatever_is_lost(counts, places, window, loss, seed):
    """Devices offer again after a silence as the agent does; nothing is written twice over, and no place is kept."""
    chance = random.Random(seed)
    puller = Puller(PullRules(places, window))
    sizes = {f"d{number}": count for number, count in enumerate(counts)}
    for turn in range(400):
        for device, count in sizes.items():
            if puller.ended.get(device) != "whole" and device not in puller.pulls.under_way:
                puller.ask(device, count)
        if turn == 0:
            first = list(sizes)[: len(puller.started)]
            assert puller.started == first
        way, puller.way = puller.way, []
        chance.shuffle(way)
        for device, get in way:
            for index in get.indices:
                for _ in range(2 if chance.random() < 0.2 else 1):
                    if chance.random() >= loss and puller.ended.get(device) != "whole":
                        puller.answer(device, index)
        if not puller.way:
            puller.waits()
        if all(puller.ended.get(device) == "whole" for device in sizes):
            break
    assert puller.ended == dict.fromkeys(sizes, "whole")
    assert puller.pulls == Pulls(puller.rules)
    assert puller.arriving.written == {}
