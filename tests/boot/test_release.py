"""A release that installs and computes, but never reaches its broker, is left for the one before by itself."""

import shutil
from pathlib import Path

import pytest

from benchmarks.install_size import build_wheel
from firmware_profiles.flash.wheelhouse import lock
from tests.boot.site import BOARD, FIRST_BOOT_TIMEOUT_S, HOST_DEVICE, ask, flash_image, site, switch_on, wait_for

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(2400)]

NEXT = "99.0"
BACK_TIMEOUT_S = 900.0  # eight starts, ten seconds apart, each with its imports


def test_release_that_never_reaches_its_broker_is_left_by_itself(
    tmp_path: Path, system: Path, wheelhouse: Path
) -> None:
    with site(tmp_path, rounds=1, epochs=1, devices_min=3) as place:
        run = place.run
        flash_image(place, system, wheelhouse)
        run.start("aggregator", HOST_DEVICE)
        switch_on(place, "power on")
        wait_for(place, "device_joined", FIRST_BOOT_TIMEOUT_S, device=BOARD)
        before = ask(place, "readlink /opt/espalier/current").strip()
        ask(place, "cp -r /boot/firmware/espalier/wheels next && rm next/espalier_fl-*.whl")
        for path in broken_release(tmp_path / "broken", wheelhouse):
            ask(place, f"cat > next/{path.name}", path.read_bytes())
        releases = "sudo python3 -I /opt/espalier/releases.py"
        ask(place, f"{releases} install {NEXT} --wheels next --lock next/requirements.lock")
        assert ask(place, "readlink /opt/espalier/current").strip() == f"releases/{NEXT}"
        ask(place, "sudo systemctl restart --no-block espalier-device")
        place.mark("broken release started")
        wait_for(
            place, "device_joined", BACK_TIMEOUT_S, count=2, device=BOARD
        )  # it had said goodbye when it was stopped
        assert ask(place, "readlink /opt/espalier/current").strip() == before
        assert ask(place, "ls /opt/espalier").split() == ["current", "releases", "releases.py"], "it is confirmed"


def broken_release(folder: Path, wheelhouse: Path) -> tuple[Path, Path]:
    """This checkout's wheel as release NEXT with a link that always fails, and the lock of all wheels with it."""
    folder.mkdir()
    wheel = build_wheel(folder, break_link)
    house = folder / "house"
    house.mkdir()
    for path in (wheel, *(p for p in wheelhouse.glob("*.whl") if not p.name.startswith("espalier_fl-"))):
        shutil.copy(path, house)
    lock(house, "3.13")
    return wheel, house / "requirements.lock"


def break_link(source: Path) -> None:
    """The fault of the release, in a copy of the checkout."""
    version = source / "device_runtime" / "wire" / "version.py"
    version.write_text(f'VERSION = "{NEXT}"\n')
    link = source / "device_runtime" / "link.py"
    connect = '        place = f"{self._settings.host}:{self._settings.port}"\n'
    assert connect in link.read_text()
    link.write_text(
        link.read_text().replace(connect, '        raise LinkError("this release has a fault")\n' + connect)
    )
