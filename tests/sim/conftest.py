"""The fixture that simulates: the fake engine, the faults, and a place in memory for everybody's disk."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime import store
from device_runtime.wire import limits
from tests.sim import engine, faults
from tests.sim.accounts import Ended, Simulate, to_the_end
from tests.sim.plan import Plan
from tests.sim.world import World


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulate]:
    """Runs a plan by a seed to its end, with what holds for every run checked."""
    # Small chunks, so that small blobs travel in many.
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 128)
    monkeypatch.setattr(store, "CHUNK_BYTES_MAX", 128, raising=False)
    worlds: list[World] = []
    engine.install(monkeypatch, lambda: worlds[-1].training_fails())
    faults.install(monkeypatch, lambda: worlds[-1].may_crash())
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:

        def run(seed: int, plan: Plan) -> Ended:
            folder = Path(place) / str(len(worlds))
            folder.mkdir()
            worlds.append(World(seed, plan, folder))
            try:
                return to_the_end(seed, worlds[-1])
            finally:
                shutil.rmtree(folder)

        yield run
