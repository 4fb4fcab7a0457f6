"""Any process may be killed at any moment: the run goes on, counts every update once and ends with the same bits."""

import time
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from aggregator.demo.broker import Broker, start_broker
from aggregator.demo.plan import Options, make_plan
from tests.e2e.harness import Fleet, fleet, params_bytes, undisturbed_bytes, wait_until

pytestmark = pytest.mark.e2e

# Enough epochs that a round lasts about a second: there is no artificial delay in the product. Masks move each round.
OPTIONS = Options(
    rounds=4, devices=3, seed=5, tables={"training": {"local_epochs": 120}, "topology": {"every_rounds": 1}}
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the run ends with when nothing is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return undisturbed_bytes(OPTIONS, make_plan(OPTIONS, folder / "plan"), folder / "in-process")


def _assert_as_if_undisturbed(run: Fleet, expected: bytes) -> None:
    run.finish()
    assert run.accepted() == [(r, d) for r in range(1, OPTIONS.rounds + 1) for d in run.names]
    assert params_bytes(run.folder) == expected


# Who is killed in rounds 1, 2, ..., how long after the round was opened, in seconds.
KILLS = {
    "device early, midway, late": [("device-01", 0.05), ("device-02", 0.3), ("device-03", 0.6)],
    "aggregator early, midway, late": [("aggregator", 0.02), ("aggregator", 0.35), ("aggregator", 0.7)],
    "device twice, then aggregator": [("device-02", 0.2), ("device-02", 0.4), ("aggregator", 0.5)],
}


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS.keys())
def test_run_with_kills_ends_as_if_undisturbed(
    tmp_path: Path, broker: Broker, undisturbed: bytes, kills: list[tuple[str, float]]
) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start_all()
        for round_index, (name, delay_s) in enumerate(kills, start=1):
            run.wait_for("round_opened", round_index=round_index)
            time.sleep(delay_s)
            run.kill_and_restart(name)
        _assert_as_if_undisturbed(run, undisturbed)


# Devices move their masks in rounds 1 and 2, after half of their epochs.
ADJUSTED = Options(
    rounds=3, devices=3, seed=5,
    tables={
        "method": {"recipe": "feddst"}, "training": {"local_epochs": 120},
        "topology": {"every_rounds": 1, "prune_share": 0.4, "after_epochs": 60, "end_round": 3},
    },
)  # fmt: skip


def test_run_whose_devices_move_their_masks_ends_as_if_undisturbed(tmp_path: Path, broker: Broker) -> None:
    expected = undisturbed_bytes(ADJUSTED, make_plan(ADJUSTED, tmp_path / "plan"), tmp_path / "in-process")
    with fleet(ADJUSTED, tmp_path / "run", broker.port) as run:
        run.start_all()
        for round_index, (name, delay_s) in enumerate([("device-02", 0.5), ("aggregator", 0.4)], start=1):
            run.wait_for("round_opened", round_index=round_index)
            time.sleep(delay_s)
            run.kill_and_restart(name)
        run.finish()
    assert params_bytes(run.folder) == expected


def test_update_offered_before_a_kill_is_pulled_from_the_spool_after_it(
    tmp_path: Path, broker: Broker, undisturbed: bytes
) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start_all()
        run.wait_for("round_opened", round_index=2)
        wait_until(lambda: _activity(run, "device-02", "fetching -> training", 2), 20, "training of round 2")
        run.signal("aggregator", SIGSTOP)
        wait_until(lambda: _activity(run, "device-02", "training -> offering", 2), 20, "offer of round 2")
        time.sleep(0.1)  # the offer is on its way to the broker
        run.end("device-02", SIGKILL)
        run.signal("aggregator", SIGCONT)
        time.sleep(0.3)  # the aggregator asks for the update, in vain
        run.start("device-02")
        _assert_as_if_undisturbed(run, undisturbed)
        assert run.log("device-02").count("round 2 trained") == 1, "nothing was trained twice"


def _activity(run: Fleet, name: str, change: str, times: int) -> bool:
    return run.log(name).count(change) >= times


def test_all_processes_killed_at_once_go_on_when_started_again(
    tmp_path: Path, broker: Broker, undisturbed: bytes
) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start_all()
        run.wait_for("update", device="device-02")
        for name in ["aggregator", *run.names]:
            run.end(name, SIGKILL)
        run.start_all()
        _assert_as_if_undisturbed(run, undisturbed)


def test_broker_killed_and_restarted_mid_round_only_delays_the_run(
    tmp_path: Path, broker_kind: str, undisturbed: bytes
) -> None:
    first = start_broker(broker_kind, tmp_path / "broker")
    second = None
    assert first.process is not None
    try:
        with fleet(OPTIONS, tmp_path / "run", first.port) as run:
            run.start_all()
            run.wait_for("round_opened", round_index=2)
            time.sleep(0.1)
            first.process.kill()
            first.process.wait()
            second = start_broker(broker_kind, tmp_path / "broker", port=first.port)
            _assert_as_if_undisturbed(run, undisturbed)
    finally:
        first.stop()
        if second is not None:
            second.stop()
