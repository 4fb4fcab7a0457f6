"""Devices join and leave between rounds; a round waits for nobody beyond its deadline once it has its quorum."""

import time
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options
from tests.e2e.harness import Fleet, fleet, wait_until

pytestmark = pytest.mark.e2e

SLOW = {"local_epochs": 150}
THREE = Options(rounds=4, devices=3, seed=2, tables={"training": SLOW})


def _devices(run: Fleet, round_index: int) -> list[str]:
    return list(run.wait_for("round_opened", round_index=round_index)["devices"])


def test_device_that_joins_late_takes_part_from_the_next_round(tmp_path: Path, broker: Broker) -> None:
    with fleet(THREE, tmp_path / "run", broker.port, rounds={"devices_min": 2, "quorum": 2}) as run:
        run.start("aggregator", "device-01", "device-02")
        run.wait_for("round_opened", round_index=1)
        run.start("device-03")
        assert _devices(run, 1) == ["device-01", "device-02"]
        run.finish()
        opened = [e["devices"] for e in run.events("round_opened")]
        assert opened[-1] == run.names
        joined = next(i for i, devices in enumerate(opened, start=1) if "device-03" in devices)
        assert [r for r, d in run.accepted() if d == "device-03"] == list(range(joined, THREE.rounds + 1))


def test_device_that_says_goodbye_is_not_waited_for(tmp_path: Path, broker: Broker) -> None:
    with fleet(THREE, tmp_path / "run", broker.port, rounds={"quorum": 2, "deadline_s": 120.0}) as run:
        run.start_all()
        run.wait_for("round_opened", round_index=2)
        before = time.monotonic()
        assert run.end("device-03", SIGTERM) == 0, run.log("device-03")
        run.finish()
        assert time.monotonic() - before < 60, "the run did not wait for the deadline"
        assert run.events("device_left", device="device-03")
        assert _devices(run, 3) == ["device-01", "device-02"]


def test_stopped_device_does_not_block_beyond_the_deadline_and_is_told_that_it_is_late(
    tmp_path: Path, broker: Broker
) -> None:
    rules: dict[str, object] = {"quorum": 2, "deadline_s": 3.0, "missed_max": 3}
    with fleet(THREE, tmp_path / "run", broker.port, rounds=rules, run={"leave_after_s": 20.0}) as run:
        run.start_all()
        wait_until(lambda: run.log("device-02").count("fetching -> training") == 2, 40, "training of round 2")
        run.signal("device-02", SIGSTOP)
        run.wait_for("round_closed", round_index=2)
        run.signal("device-02", SIGCONT)
        wait_until(lambda: ": late " in run.log("device-02"), 40, "receipt `late`")
        run.finish()
        accepted = run.accepted()
        assert (2, "device-02") not in accepted
        assert {(2, "device-01"), (2, "device-03"), (3, "device-01"), (3, "device-03")} <= set(accepted)
