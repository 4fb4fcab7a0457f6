"""Whole runs of the real shells under faults, by seed: what may never happen, and that what was promised does."""

import os
from dataclasses import replace

import pytest

from tests.sim.accounts import Ended, Simulate
from tests.sim.faults import CRASH, LOSS, TROUBLE
from tests.sim.plan import TROUBLED, Plan

# One seed at a time with `ESPALIER_SEED=n`, to look into a failure; all of them in `scripts/test --full`.
SEEDS = (
    [int(os.environ["ESPALIER_SEED"])]
    if "ESPALIER_SEED" in os.environ
    else [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 30 else []) for seed in range(1000)]
)


@pytest.fixture(scope="module")
def calm() -> list[Ended]:
    """A run without faults, which is the same for every seed, once it was made."""
    return []


def undisturbed(calm: list[Ended], simulate: Simulate) -> Ended:
    """The run without faults."""
    if not calm:
        calm.append(simulate(0, Plan()))
    return calm[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("faults", [LOSS, CRASH], ids=["loss", "crash"])
def test_what_networks_and_kills_do_changes_no_bit(seed, faults, simulate, calm):
    wanted = undisturbed(calm, simulate)
    rough = simulate(seed, Plan(faults=faults))
    assert (rough.committed, rough.params) == (wanted.committed, wanted.params)


@pytest.mark.parametrize("seed", SEEDS)
def test_refusals_goodbyes_and_deaths_do_not_stop_a_run_with_quorum(seed, simulate):
    simulate(seed, TROUBLED)


@pytest.mark.parametrize("seed", SEEDS)
def test_mischief_does_not_stop_a_run_with_quorum(seed, simulate):
    simulate(seed, Plan(devices=4, mischief=True, quorum=3, deadline_s=20.0, faults=replace(LOSS, delay_s=1.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_devices_for_which_no_artifact_can_be_made_change_no_bit(seed, simulate, calm):
    wanted = undisturbed(calm, simulate)
    beside = simulate(seed, Plan(exotic=2, faults=CRASH))
    assert (beside.committed, beside.params) == (wanted.committed, wanted.params)


def test_the_faults_do_happen(simulate):
    runs = [simulate(seed, Plan(faults=CRASH)) for seed in range(5)]
    assert all(run.crashes >= 5 for run in runs)
    assert any(run.lives["site-aggregator"] > 1 for run in runs)
    assert any(lives > 1 for run in runs for client, lives in run.lives.items() if client != "site-aggregator")


def test_a_seed_repeats_itself(simulate):
    first, second = (simulate(3, Plan(faults=TROUBLE, quorum=2)) for _ in range(2))
    assert (first.seconds, first.crashes, first.lives) == (second.seconds, second.crashes, second.lives)
    assert (first.committed, first.params) == (second.committed, second.params)
