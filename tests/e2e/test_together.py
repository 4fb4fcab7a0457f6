"""Masks of each device's own, layers that devices keep, and dense rounds, all in one run that is disturbed."""

import json
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import msgspec
import pytest

from aggregator.demo.broker import Broker
from device_runtime.engines import available_engines
from tests.e2e.harness import wait_until
from tests.e2e.test_personal import HEAD, OPTIONS, assert_as_if_undisturbed, personal_fleet, undisturbed

pytestmark = pytest.mark.e2e

# Rates by contribution rest on no clock, so that the run has an undisturbed twin to be compared with.
EVERYTHING = msgspec.structs.replace(
    OPTIONS,
    engine=available_engines()[0],
    noise="pair:0.8@2",
    tables={
        "training": {"local_epochs": 60},
        "pruning": {"dense_rounds": 1},
        "topology": {"every_rounds": 1, "prune_share": 0.4},
        "rates": {"kind": "contribution", "kappa": 0.15},
    },
)


def test_an_open_round_of_different_masks_with_kept_back_layers_survives_kills(
    tmp_path: Path, mosquitto: Broker
) -> None:
    expected = undisturbed(EVERYTHING, tmp_path / "in-process", EVERYTHING.engine)
    with personal_fleet(EVERYTHING, tmp_path / "run", mosquitto.port) as run:
        run.start_all()
        run.wait_for("round_opened", round_index=3)
        run.signal("device-03", SIGSTOP)  # which keeps a layer; device-01 does too
        wait_until(lambda: (3, "device-01") in run.accepted(), 20, "an update that lacks a layer")
        run.end("aggregator", SIGKILL)
        run.start("aggregator")
        run.end("device-03", SIGKILL)
        run.end("aggregator", SIGKILL)
        run.start("device-03", "aggregator")
        assert_as_if_undisturbed(run, expected)
        opened = {int(e["round_index"]): e["sparsities"] for e in run.events("round_opened")}
    assert set(opened[1]) == {0.0}
    assert all(len(set(opened[index])) > 1 for index in (2, 3, 4))
    rounds = json.loads((run.folder / "result.json").read_text())["rounds"]
    for result in rounds:
        assert [d["sparsity"] for d in result["devices"]] == opened[result["round_index"]]
        assert [d["kept_back"] for d in result["devices"]] == [list(HEAD), [], list(HEAD)]


def test_devices_that_change_what_they_keep_between_rounds_stay_in_the_run(tmp_path: Path, mosquitto: Broker) -> None:
    changes = {"device-01": ('personal = "last"', "personal = []"), "device-02": ("personal = []", 'personal = "last"')}
    with personal_fleet(EVERYTHING, tmp_path / "run", mosquitto.port) as run:
        run.start_all()
        run.wait_for("round", round_index=1)
        for name, (old, new) in changes.items():
            run.end(name, SIGKILL)
            config = run.folder / "devices" / name / "device.toml"
            assert old in config.read_text()
            config.write_text(config.read_text().replace(old, new))
            run.start(name)
        run.finish()
        assert run.accepted() == [(r, d) for r in range(1, EVERYTHING.rounds + 1) for d in run.names]
        assert all("Traceback" not in run.log(name) for name in ("aggregator", *run.names))
    rounds = json.loads((run.folder / "result.json").read_text())["rounds"]
    kept_back = [{d["name"]: bool(d["kept_back"]) for d in r["devices"]} for r in rounds]
    assert kept_back[0] == {"device-01": True, "device-02": False, "device-03": True}
    assert kept_back[-1] == {"device-01": False, "device-02": True, "device-03": True}
