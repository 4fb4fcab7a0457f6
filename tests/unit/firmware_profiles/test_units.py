"""The units: systemd accepts them, their exposure is recorded and low, and what the text promises stands in them."""

import configparser
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

UNITS = Path(str(files("firmware_profiles.units")))
# Measured by systemd 252; newer versions may count a little differently.
EXPOSURE = {"espalier-device.service": 1.8, "espalier-gateway.service": 1.5}
EXPOSURE_MAX = 3.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def lines(unit: str) -> list[str]:
    return (UNITS / unit).read_text().splitlines()


@needs_systemd
@pytest.mark.parametrize("unit", EXPOSURE)
def test_systemd_finds_no_fault_in_a_unit(unit: str, tmp_path: Path) -> None:
    text = (UNITS / unit).read_text().replace("/opt/espalier/current/venv/bin/espalier", "/bin/true")
    (tmp_path / unit).write_text(text)  # its program is not installed here, and systemd looks for it
    done = analyze("verify", "--man=no", str(tmp_path / unit))
    ours = [line for line in done.stderr.splitlines() if "espalier" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs_systemd
@pytest.mark.parametrize(("unit", "recorded"), EXPOSURE.items())
def test_the_exposure_of_a_unit_is_what_is_recorded(unit: str, recorded: float) -> None:
    done = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(UNITS / unit)
    )
    if "offline" in done.stderr and done.returncode:
        pytest.skip("this systemd-analyze has no --offline")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert done.returncode == 0
    assert float(found[1]) == pytest.approx(recorded, abs=0.5)


def test_every_file_of_units_says_what_it_is_for() -> None:
    for path in UNITS.iterdir():
        if path.suffix in (".service", ".conf"):
            assert path.read_text().startswith("# "), path.name


@pytest.mark.parametrize("unit", EXPOSURE)
def test_a_unit_starts_again_after_every_failure_and_never_gives_up(unit: str) -> None:
    assert "Restart=on-failure" in lines(unit)
    assert "StartLimitIntervalSec=0" in lines(unit)


@pytest.mark.parametrize("unit", EXPOSURE)
def test_no_unit_hides_the_proc_files_that_onnxruntime_reads(unit: str) -> None:
    assert "ProcSubset=pid" not in lines(unit)
    assert "Environment=ORT_DISABLE_TELEMETRY=1" in lines(unit)


def test_memory_shares_of_the_device_are_those_of_the_boards() -> None:
    from firmware_profiles.catalogue import load_boards

    for board in load_boards().values():
        limits = board.limits
        assert limits.memory_high is not None
        assert limits.memory_max is not None
        assert limits.swap_max is not None
        assert f"MemoryHigh={limits.memory_high.value:g}%" in lines("espalier-device.service")
        assert f"MemoryMax={limits.memory_max.value:g}%" in lines("espalier-device.service")
        assert f"MemorySwapMax={limits.swap_max.value:g}M" in lines("espalier-device.service")


def test_the_device_is_watched_and_its_release_confirmed_after_it_is_ready() -> None:
    text = lines("espalier-device.service")
    assert "Type=notify" in text
    assert any(line.startswith("WatchdogSec=") for line in text)
    assert any(line.startswith("ExecStartPre=-+") and line.endswith("releases.py starting") for line in text)
    assert any(line.startswith("ExecStartPost=-+") and line.endswith("releases.py confirm") for line in text)


def test_drop_ins_are_valid_and_keep_the_journal_off_the_card() -> None:
    for name in ("espalier-journald.conf", "espalier-time-wait.conf", "espalier-watchdog.conf"):
        parsed = configparser.ConfigParser()
        parsed.optionxform = str  # type: ignore[method-assign,assignment]
        parsed.read_string((UNITS / name).read_text())
        assert parsed.sections(), name
    assert "Storage=volatile" in lines("espalier-journald.conf")
