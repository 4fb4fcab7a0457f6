"""What is pulled is not held: the memory of the aggregator does not grow with the bytes that devices send."""

import tracemalloc
from collections import deque
from pathlib import Path

import numpy as np

from aggregator.core.round_events import Checked, CheckUpdate, Event, Heard, Opened, OpenRound, Send, WriteChunk
from aggregator.core.round_state import RoundRules, RoundState
from aggregator.core.rounds import step
from device_runtime.store import ArrivingBlobs, BlobStore
from device_runtime.wire.limits import CHUNK_BYTES_MAX, UPDATE_CHUNKS_MAX
from device_runtime.wire.messages import Get, Receipt
from tests import fakes
from tests.fakes import cut_chunk

UPDATE_BYTES = 100_000
assert UPDATE_BYTES < CHUNK_BYTES_MAX, "each is one chunk"


def update(device: str) -> bytes:
    """Made when it is asked for, so that the test itself holds none."""
    return np.random.default_rng(int(device[1:])).bytes(UPDATE_BYTES)


def most_bytes_held(count: int, folder: Path) -> int:
    """In a round of so many devices, all of which offer their updates before any is pulled."""
    arriving, blobs = ArrivingBlobs(folder / "arriving"), BlobStore(folder / "blobs")
    state = RoundState(RoundRules(1, devices_min=count, quorum=count))
    assignments = tuple(fakes.assignment(f"d{number}") for number in range(count))
    offers = [fakes.offer(a, update(a.device)) for a in assignments]
    coming: deque[Event] = deque(Heard(a.device, fakes.hello(a.device)) for a in assignments)
    tracemalloc.start()
    while coming:
        state, commands = step(state, coming.popleft(), 0)
        for command in commands:
            match command:
                case OpenRound():
                    coming.append(Opened(assignments, UPDATE_BYTES))
                    coming += [Heard(offer.device, offer) for offer in offers]
                case Send(device, Get(sha=sha)):
                    coming.append(Heard(device, cut_chunk(update(device), sha, 0)))
                case WriteChunk(device, chunk):
                    arriving.write(device, chunk)
                case CheckUpdate(offer):
                    sha = blobs.add(arriving.take(offer.device, offer.update_sha))
                    receipt = Receipt(assignment_id=offer.assignment_id, update_sha=sha, verdict="accepted")
                    coming.append(Checked(offer.device, receipt))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert state.tasks.count("accepted") == count
    return most


def test_what_is_held_is_bounded_by_the_chunks_under_way_and_not_by_the_number_of_devices(tmp_path):
    few, many = (most_bytes_held(count, tmp_path / str(count)) for count in (UPDATE_CHUNKS_MAX, 4 * UPDATE_CHUNKS_MAX))
    assert few < 1.5 * UPDATE_CHUNKS_MAX * UPDATE_BYTES
    assert many - few < 0.1 * (3 * UPDATE_CHUNKS_MAX * UPDATE_BYTES), "of what came more, a tenth at most"
