"""A card from `espalier flash`, put into an emulated board and left alone: it installs, joins, trains, survives.

The board has no network but the way to its broker, and nobody logs in. What happened when is written to
$ESPALIER_BOOT_RECORD, where that is set, for docs/reference/boot.md.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.boot.site import (
    BOARD,
    FIRST_BOOT_TIMEOUT_S,
    HOST_DEVICE,
    Site,
    ask,
    fix_up,
    flash_image,
    flash_seed,
    site,
    switch_on,
    wait_for,
    wifi_options,
    without_cloud_init,
)
from tests.e2e.harness import params_bytes, undisturbed_bytes

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(2400)]

BOOT_TIMEOUT_S, ROUND_TIMEOUT_S = 400.0, 400.0
TRAIN_S_MIN = 4.0  # less, and the power might be cut before or after the training of the second round
TOLERANCE = 1e-4


def test_board_joins_by_itself_and_survives_a_power_cut(tmp_path: Path, system: Path, wheelhouse: Path) -> None:
    with site(tmp_path, rounds=2, epochs=30) as place:
        run, board = place.run, place.machine
        flash_image(place, system, wheelhouse)
        run.start("aggregator", HOST_DEVICE)
        switch_on(place, "power on")
        wait_for(place, "device_joined", FIRST_BOOT_TIMEOUT_S, device=BOARD)
        (first,) = wait_for(place, "round", ROUND_TIMEOUT_S, round_index=1)
        train_s = next(d["train_s"] for d in first["devices"] if d["name"] == BOARD)
        assert train_s > TRAIN_S_MIN, "train longer, so that the power is cut while the board trains"
        wait_for(place, "round_opened", ROUND_TIMEOUT_S, round_index=2)
        time.sleep(train_s / 2)
        board.cut_power()
        place.mark("power cut")
        assert (2, BOARD) not in run.accepted(), "the power was to be cut while the board trains"
        check_boot_partition(place)
        switch_on(place, "power on again")
        wait_for(place, "device_returned", BOOT_TIMEOUT_S, device=BOARD)
        wait_for(place, "finished", ROUND_TIMEOUT_S)
        assert run.wait("aggregator") == 0
        assert run.accepted() == [(r, d) for r in (1, 2) for d in (HOST_DEVICE, BOARD)]
        check_service(place)
        check_profile(place)
        board.cut_power()
        assert "recovery complete" in board.said(), "the root file system was repaired after the power cut"
        check_secrets(place)
        check_model(place, tmp_path / "undisturbed")
        record(place, "cloud-init")


def test_image_from_before_cloud_init_installs_and_trains(tmp_path: Path, system: Path, wheelhouse: Path) -> None:
    with site(tmp_path, rounds=1, epochs=1) as place:
        run, board = place.run, place.machine
        flash_image(place, without_cloud_init(system, tmp_path), wheelhouse, *wifi_options(place))
        fix_up(board)
        run.start("aggregator", HOST_DEVICE)
        switch_on(place, "power on")
        board.wait_until_off(FIRST_BOOT_TIMEOUT_S)
        place.mark("installed, starts anew")
        assert "systemd.run" not in board.read("cmdline.txt").decode(), "firstrun.sh would run at every boot"
        check_boot_partition(place)
        switch_on(place, "power on again")
        wait_for(place, "finished", BOOT_TIMEOUT_S + ROUND_TIMEOUT_S)
        assert run.wait("aggregator") == 0
        assert run.accepted() == [(1, HOST_DEVICE), (1, BOARD)]
        check_service(place)
        wifi = "/etc/NetworkManager/system-connections/espalier.nmconnection"
        assert ask(place, f"sudo stat -c '%a %U' {wifi}") == "600 root\n"
        board.cut_power()
        check_secrets(place)
        record(place, "firstrun")


def test_seed_installs_on_a_system_that_is_there_already(tmp_path: Path, system: Path, wheelhouse: Path) -> None:
    with site(tmp_path, rounds=1, epochs=1) as place:
        run, board = place.run, place.machine
        flash_seed(place, system, wheelhouse)
        run.start("aggregator", HOST_DEVICE)
        switch_on(place, "power on")
        wait_for(place, "finished", FIRST_BOOT_TIMEOUT_S + ROUND_TIMEOUT_S)
        assert run.wait("aggregator") == 0
        assert run.accepted() == [(1, HOST_DEVICE), (1, BOARD)]
        check_service(place)
        board.cut_power()
        check_secrets(place)
        seed = board.seed
        assert seed is not None
        assert board.install_log().endswith("done\n")
        assert not [secret for secret in place.secrets() if secret in seed.read_bytes()], (
            "a secret is left on the stick"
        )
        record(place, "seed")


def check_service(place: Site) -> None:
    """What a person finds who logs in: the service is active and confirmed, its limit counts, the doctor is content."""
    shown = ask(place, "systemctl show espalier-device --property=ActiveState,SubState,NRestarts,MemoryMax,MemoryPeak")
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    assert (unit["ActiveState"], unit["SubState"], unit["NRestarts"]) == ("active", "running", "0")
    assert 0 < int(unit["MemoryPeak"]) < int(unit["MemoryMax"]), "the memory cgroup is on, and the limit is in force"
    assert ask(place, "ls /opt/espalier").split() == ["current", "releases", "releases.py"], (
        "nothing is left to confirm"
    )
    espalier = "/opt/espalier/current/venv/bin/espalier"
    doctor = json.loads(
        ask(place, f"sudo -u espalier {espalier} device doctor --config /etc/espalier/device.toml --json || true")
    )
    found = {finding["check"]: finding["status"] for finding in doctor["findings"]}
    place.facts |= {"unit": unit, "doctor": found}
    assert not [check for check, status in found.items() if status == "failed"], doctor
    detected = json.loads(ask(place, f"{espalier} boards detect --json"))
    assert detected["board"] == "generic-aarch64"


def check_profile(place: Site) -> None:
    """A board measures the very artifact that it trained; emulated, its numbers are labelled so."""
    whole = "--quick --batch 8 --json /var/lib/espalier/profile.json"
    ask(
        place,
        "sudo -u espalier sh -c '/opt/espalier/current/venv/bin/espalier device profile "
        f"--artifact /var/lib/espalier/artifacts/* {whole}'",
    )
    profile = json.loads(ask(place, "sudo cat /var/lib/espalier/profile.json"))
    place.facts["profile"] = [case["verdict"] for case in profile["cases"]]
    assert [case["verdict"]["kind"] for case in profile["cases"]] == ["emulated"]


def check_boot_partition(place: Site) -> None:
    """The installation is told to be done, and no byte of the partition holds a secret any more."""
    board = place.machine
    log = board.install_log()
    assert log.endswith("done\n"), log
    assert "secrets" not in board.names("espalier")
    boot = board.boot_bytes()
    assert not [secret for secret in place.secrets() if secret in boot], "a secret is left on the boot partition"


def check_secrets(place: Site) -> None:
    """Nothing secret was said on the console; in the root partition each lies once, in the service's own folder."""
    console = place.machine.console.read_bytes()
    assert not [secret for secret in place.secrets() if secret in console]
    root = place.machine.root_bytes()
    assert [root.count(secret) for secret in place.secrets()] == [1] * len(place.secrets())


def check_model(place: Site, folder: Path) -> None:
    """The run ended as it does without a board and without a power cut, but for the rounding of another CPU."""
    ended = safetensors.numpy.load(params_bytes(place.run.folder))
    expected = safetensors.numpy.load(undisturbed_bytes(place.options, place.run.plan, folder))
    worst = max(float(np.abs(ended[name] - value).max()) for name, value in expected.items())
    place.facts["largest_difference"] = worst
    assert worst < TOLERANCE


def record(place: Site, name: str) -> None:
    """What happened when, and the console, for the documentation."""
    folder = os.environ.get("ESPALIER_BOOT_RECORD")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(
            json.dumps({"times_s": place.times_s, **place.facts}, indent=2) + "\n"
        )
        (Path(folder) / f"{name}.console.log").write_bytes(place.machine.console.read_bytes())
        (Path(folder) / f"{name}.install.log").write_text(place.machine.install_log())
