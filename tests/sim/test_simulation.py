"""Whole runs under faults, by seed: what may never happen, and that what was promised does."""

import os
from collections import Counter
from dataclasses import replace

import pytest

from device_runtime.wire import limits
from tests.sim.world import Faults, Plan, World

# One seed at a time with `ESPALIER_SEED=n`, to look into a failure.
SEEDS = [int(os.environ["ESPALIER_SEED"])] if "ESPALIER_SEED" in os.environ else range(200)
PATIENCE_S = 4 * 3600.0

LOSS = Faults(loss=0.15, duplication=0.1, corruption=0.01, delay_s=4.0)
CRASH = Faults(loss=0.05, duplication=0.05, delay_s=1.0, crash=0.02, crash_count_max=15, partition=0.01)
TROUBLE = replace(CRASH, refusal=0.2, goodbye=0.005, death=0.002)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Chunks of 64 bytes, so that small blobs travel in many."""
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 64)


def where(world: World) -> str:
    """How far everybody is."""
    state = world.aggregator.state
    tasks = {device: task.status for device, task in state.tasks.items()}
    devices = {device.name: device.state.phase for device in world.devices.values()}
    return f"round {state.round_index} {state.phase}, tasks {tasks}, devices {devices}"


def run(seed: int, plan: Plan) -> World:
    """A run to its end, with what holds for every run checked."""
    world = World(seed, plan)
    finished = world.run(lambda: world.aggregator.finished, PATIENCE_S)
    assert finished, f"seed {seed}: no end; {where(world)}"
    released = world.run(lambda: all(d.left or d.gone_for_good for d in world.devices.values()), 600.0)
    assert released, f"seed {seed}: not released; {where(world)}"
    counted = Counter((index, device) for index, device, _ in world.aggregator.committed)
    assert set(counted.values()) == {1}, f"seed {seed}: an update was counted twice"
    assert [index for index, _, _ in world.aggregator.committed] == sorted(i for i, _, _ in world.aggregator.committed)
    for index in range(1, plan.rounds + 1):
        assert sum(i == index for i, _ in counted) >= plan.quorum, f"seed {seed}: round {index} lacks its quorum"
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_duplication_and_reordering_change_nothing(seed):
    calm = run(seed, Plan()).aggregator
    rough = run(seed, Plan(faults=LOSS)).aggregator
    assert rough.committed == calm.committed
    assert rough.model == calm.model


@pytest.mark.parametrize("seed", SEEDS)
def test_crashes_and_partitions_change_nothing(seed):
    calm = run(seed, Plan()).aggregator
    world = run(seed, Plan(faults=CRASH))
    assert world.aggregator.committed == calm.committed
    assert world.aggregator.model == calm.model


@pytest.mark.parametrize("seed", SEEDS)
def test_refusals_goodbyes_and_deaths_do_not_stop_a_run_with_quorum(seed):
    run(seed, Plan(devices=4, quorum=2, deadline_s=20.0, faults=TROUBLE))


def test_the_faults_do_happen():
    worlds = [run(seed, Plan(faults=CRASH)) for seed in range(5)]
    assert all(world.crashes >= 5 for world in worlds)
    assert any(world.aggregator.life > 1 for world in worlds)
    assert any(device.life > 1 for world in worlds for device in world.devices.values())


def test_a_seed_repeats_itself():
    first, second = (run(3, Plan(faults=TROUBLE, quorum=2)) for _ in range(2))
    assert (first.now_ns, first.crashes) == (second.now_ns, second.crashes)
    assert first.aggregator.committed == second.aggregator.committed
