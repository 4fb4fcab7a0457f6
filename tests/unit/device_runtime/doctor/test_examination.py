"""The doctor on captured-like trees: each ill is found, with what mends it, and absence is said."""

import json
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from device_runtime.commands import app
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.doctor import hardware, software, storage
from device_runtime.doctor.examination import CHECKS, examine, report
from device_runtime.doctor.finding import Answer, Finding, Patient, run_program
from device_runtime.engines import available_engines, onnxruntime_import
from device_runtime.profile.record import encode_profile
from device_runtime.wire.errors import UsageError
from firmware_profiles import base_install
from firmware_profiles.detect import detect_board
from tests.profiles import make_case, make_profile
from tests.toy_engine import install_toy
from tests.unit.firmware_profiles.trees import arm_tree, write

NOW = 1_800_000_000.0
runner = CliRunner()


def patient(root: Path, board: str = "rpi4b", **changes: object) -> Patient:
    """A board's captured tree; programs answer nothing unless told."""
    given: dict[str, object] = {"root": root, "live": False, "environ": {}, "run": lambda _: None, "now": lambda: NOW}
    return Patient(detect_board(arm_tree(root, board), "aarch64"), **{**given, **changes})  # type: ignore[arg-type]


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def device(folder: Path, data: str) -> DeviceSettings:
    return DeviceSettings(name="bench", folder=str(folder), data=DataSettings(source=data))


# --- software ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "found"), [(None, "rich is not installed"), ("12.9", "rich is 12.9, and >=13 is needed")]
)
def test_a_package_that_is_missing_or_too_old_is_told_with_what_mends_it(
    version: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = software.installed
    monkeypatch.setattr(software, "installed", lambda name: version if name == "rich" else real(name))
    finding = only(software.check_packages(patient(tmp_path)))
    assert (finding.status, finding.found, finding.remedy) == ("failed", found, "pip install 'rich>=13'")


def test_without_metadata_nothing_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_install, "DISTRIBUTION", "espalier-of-nobody")
    assert only(software.check_packages(patient(tmp_path))).status == "not checked"


def test_this_environment_is_healthy(tmp_path: Path) -> None:
    for check in (software.check_python, software.check_packages, software.check_runtime):
        assert only(check(patient(tmp_path))).status == "ok"


@pytest.mark.parametrize(
    ("present", "status", "said"),
    [
        ({}, "failed", "pip install --force-reinstall espalier-fl"),
        (
            {"onnxruntime": "1.31.1", "onnxruntime-training-cpu": "1.19.2"},
            "failed",
            "pip uninstall --yes onnxruntime onnxruntime-training-cpu && pip install",
        ),
        ({"onnxruntime": "1.21.0"}, "failed", "pip install 'onnxruntime>=1.22'"),
        ({"onnxruntime": "1.22.0"}, "ok", ""),
    ],
)
def test_wrong_runtimes_are_told_with_what_mends_them(
    present: dict[str, str], status: str, said: str, tmp_path: Path
) -> None:
    finding = only(software.judge_runtime(present, patient(tmp_path)))
    assert finding.status == status
    assert said in finding.remedy


def test_the_runtime_that_dies_on_a_pi_4_is_fine_on_a_pi_5(tmp_path: Path) -> None:
    assert only(software.judge_runtime({"onnxruntime": "1.21.0"}, patient(tmp_path, "rpi5"))).status == "ok"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (Answer(0, "product 64.0\n"), "ok", "computes"),
        (Answer(-4, ""), "failed", "illegal instruction"),
        (Answer(1, "Traceback\nImportError: libstdc++.so.6\n"), "failed", "ImportError: libstdc++.so.6"),
        (None, "failed", "does not end in time"),
        (Answer(127, "not found"), "not checked", "cannot start itself"),
    ],
)
def test_the_engine_is_judged_by_what_its_own_process_said(answer: Answer | None, status: str, said: str) -> None:
    finding = only(software.judge_engine(answer))
    assert (finding.status, said in finding.found) == (status, True)


def test_engines_are_listed_and_what_the_others_need_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path / "toy", monkeypatch, preference=99, installed=False)
    finding = only(software.check_engines(patient(tmp_path)))
    assert finding.status == "ok"
    assert finding.found.startswith(", ".join(available_engines()))
    assert "toy needs a box of bricks" in finding.found


def test_no_engine_at_all_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_import, "_installed", lambda _: False)
    finding = only(software.check_engines(patient(tmp_path)))
    assert (finding.status, finding.remedy) == ("failed", software.REINSTALL)
    assert "portable needs onnxruntime" in finding.found
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    assert "no entry point" in only(software.check_engines(patient(tmp_path))).found


def test_the_probe_of_the_engine_computes_here() -> None:
    assert only(software.judge_engine(run_program([sys.executable, "-c", software.PROBE]))).status == "ok"


def test_instructions_that_the_system_hides_are_a_warning(tmp_path: Path) -> None:
    hidden = patient(tmp_path, "rpi5")
    cpuinfo = (tmp_path / "proc/cpuinfo").read_text().replace(" asimddp", "")
    write(tmp_path / "proc/cpuinfo", cpuinfo)
    found = only(software.check_features(Patient(detect_board(tmp_path, "aarch64"), root=tmp_path)))
    assert found.status == "warning"
    assert "asimddp" in found.found
    assert only(software.check_features(hidden)).status == "ok"


@pytest.mark.parametrize(
    ("version", "environ", "status"),
    [
        ("1.31.1", {}, "warning"),
        ("1.31.1", {"ORT_DISABLE_TELEMETRY": "1"}, "ok"),
        ("1.28.0", {}, "ok"),
        (None, {}, "ok"),
    ],
)
def test_telemetry_that_is_on_is_a_warning(
    version: str | None, environ: dict[str, str], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "installed", lambda _: version)
    assert only(software.check_telemetry(patient(tmp_path, environ=environ))).status == status


# --- hardware ---------------------------------------------------------------------------------------------------


def test_a_synchronised_clock_is_seen_in_run(tmp_path: Path) -> None:
    assert only(hardware.check_clock(patient(tmp_path))).status == "not checked"
    write(tmp_path / "run/systemd/timesync/synchronized", "")
    assert only(hardware.check_clock(patient(tmp_path))).status == "ok"


@pytest.mark.parametrize(("said", "status"), [("yes\n", "ok"), ("no\n", "warning"), ("?", "not checked")])
def test_timedatectl_is_asked_where_there_is_no_timesyncd(said: str, status: str, tmp_path: Path) -> None:
    found = only(hardware.check_clock(patient(tmp_path, live=True, run=lambda _: Answer(0, said))))
    assert found.status == status


def test_a_clock_of_1970_fails(tmp_path: Path) -> None:
    found = only(hardware.check_clock(patient(tmp_path, now=lambda: 0.0)))
    assert (found.status, found.remedy) == ("failed", hardware.CLOCK_REMEDY)


@pytest.mark.parametrize(("free_kb", "status"), [(4_000_000, "ok"), (200_000, "warning"), (50_000, "failed")])
def test_free_memory_is_judged(free_kb: int, status: str, tmp_path: Path) -> None:
    sick = patient(tmp_path)
    write(tmp_path / "proc/meminfo", f"MemTotal: 4194304 kB\nMemAvailable: {free_kb} kB\nSwapTotal: 524288 kB\n")
    found = only(hardware.check_memory(sick))
    assert found.status == status
    assert "swap 512 MiB" in found.found


def test_the_memory_cgroup_of_raspberry_pi_os_is_mended_on_the_command_line(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    write(tmp_path / "boot/firmware/cmdline.txt", "console=tty1 root=PARTUUID=x rootwait\n")
    found = only(hardware.check_memory_cgroup(sick))
    assert found.status == "warning"
    assert "sed -i '1s/$/ cgroup_enable=memory/' /boot/firmware/cmdline.txt" in found.remedy
    write(tmp_path / "boot/firmware/cmdline.txt", "console=tty1 cgroup_enable=memory\n")
    assert only(hardware.check_memory_cgroup(sick)).remedy == "sudo reboot"
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    assert only(hardware.check_memory_cgroup(sick)).status == "ok"


@pytest.mark.parametrize(("millidegrees", "status"), [(45_000, "ok"), (74_000, "warning"), (81_000, "failed")])
def test_temperature_is_judged_by_the_boards_limit(millidegrees: int, status: str, tmp_path: Path) -> None:
    sick = patient(tmp_path)
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", f"{millidegrees}\n")
    assert only(hardware.check_temperature(sick)).status == status


@pytest.mark.parametrize(
    ("bits", "status", "said"),
    [
        ("0", "ok", "neither"),
        ("50005", "failed", "now: under-voltage, throttled"),
        ("50000", "warning", "since boot: under-voltage, throttled"),
        ("80008", "failed", "soft temperature limit"),
    ],
)
def test_throttling_is_read_from_sys_and_from_vcgencmd(bits: str, status: str, said: str, tmp_path: Path) -> None:
    told = patient(tmp_path / "a", live=True, run=lambda _: Answer(0, f"throttled=0x{bits}\n"))
    found = only(hardware.check_throttling(told))
    assert (found.status, said in found.found) == (status, True)
    captured = patient(tmp_path / "b")
    write(tmp_path / "b/sys/devices/platform/soc/soc:firmware/get_throttled", f"{bits}\n")
    assert only(hardware.check_throttling(captured)) == found


def test_a_machine_that_tells_nothing_is_not_checked_and_not_guessed(tmp_path: Path) -> None:
    bare = Patient(detect_board(tmp_path, "riscv64"), root=tmp_path, live=False, run=lambda _: None, now=lambda: NOW)
    for check in (
        hardware.check_clock,
        hardware.check_memory,
        hardware.check_memory_cgroup,
        hardware.check_temperature,
        hardware.check_throttling,
        software.check_features,
        storage.check_card_wear,
    ):
        assert only(check(bare)).status == "not checked", check


# --- storage ----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    write(tmp_path / "spot", "")
    found = only(storage.check_folder(patient(tmp_path / "r", settings=device(tmp_path / "spot/folder", "x.npz"))))
    assert found.status == "failed"
    assert "is a file" in found.found


def test_a_folder_that_can_be_made_is_well_and_is_not_made(tmp_path: Path) -> None:
    found = only(storage.check_folder(patient(tmp_path / "r", settings=device(tmp_path / "new/folder", "x.npz"))))
    assert found.status in ("ok", "warning")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FREE_MIN", 1 << 62)
    found = only(storage.check_folder(patient(tmp_path / "r", settings=device(tmp_path, "x.npz"))))
    assert found.status == "failed"
    assert found.remedy.startswith("du ")


def test_data_that_is_missing_fails_in_the_words_of_the_loader(tmp_path: Path) -> None:
    found = only(storage.check_data(patient(tmp_path, settings=device(tmp_path, str(tmp_path / "none.npz")))))
    assert found.status == "failed"
    assert "none.npz" in found.found


def test_card_wear_is_told_and_a_journal_on_the_card_is_a_warning(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    write(tmp_path / "sys/block/mmcblk0/stat", "1 2 3 4 5 6 2097152 8 9 10 11\n")
    write(tmp_path / "proc/uptime", "172800.0 1.0\n")
    assert only(storage.check_card_wear(sick)).found.startswith("mmcblk0: 1024 MiB written in 2.00 days")
    write(tmp_path / "var/log/journal/x/system.journal", "")
    found = only(storage.check_card_wear(sick))
    assert found.status == "warning"
    assert "Storage=volatile" in found.remedy
    write(tmp_path / "usr/lib/systemd/journald.conf.d/40-rpi-volatile-storage.conf", "[Journal]\nStorage=volatile\n")
    assert only(storage.check_card_wear(sick)).status == "ok"


# --- the whole ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["rpi-zero2w", "rpi5", "rk3588", "jetson-orin-nano"])
def test_a_whole_examination_of_a_captured_board_needs_no_settings(board: str, tmp_path: Path) -> None:
    heard: list[str] = []
    record = report(examine(patient(tmp_path, board), heard.append))
    assert heard == [name for name, _ in CHECKS]
    assert record["findings"][0]["found"].startswith(f"{board}: ")
    assert sum(record["counts"].values()) == len(record["findings"])


def test_everything_that_failed_or_warns_says_how_to_mend_it(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "90000\n")
    write(tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpu\n")
    for finding in examine(patient(tmp_path, settings=device(tmp_path, "nothing")), lambda _: None):
        assert finding.remedy or finding.status in ("ok", "not checked"), finding


def test_the_command_exits_with_1_where_something_failed_and_tells_json(tmp_path: Path) -> None:
    arm_tree(tmp_path, "rpi4b")
    write(tmp_path / "device.toml", 'name = "Bench!"\n')
    done = runner.invoke(app, ["doctor", "--root", str(tmp_path), "--config", str(tmp_path / "device.toml"), "--json"])
    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert not record["healthy"]
    assert record["findings"][0]["check"] == "settings"


def test_checks_can_be_asked_for_by_name_and_an_unknown_one_is_refused() -> None:
    done = runner.invoke(app, ["doctor", "--json", "--only", "imports", "--only", "python"])
    assert [f["check"] for f in json.loads(done.stdout)["findings"]] == ["python", "imports"]
    with pytest.raises(UsageError, match=r"no check 'import'; it has: board, python, "):
        runner.invoke(app, ["doctor", "--only", "import"], catch_exceptions=False)


def test_a_runtime_that_cannot_be_loaded_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "RUNTIME", "device_runtime.of_nobody")
    finding = only(software.check_imports(Patient(detect_board(), root=tmp_path)))
    assert finding.status == "failed"
    assert "No module named 'device_runtime.of_nobody'" in finding.found


def test_the_table_names_every_check_and_what_mends_it(tmp_path: Path) -> None:
    arm_tree(tmp_path, "rpi4b")
    write(tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled", "1\n")
    done = runner.invoke(app, ["doctor", "--root", str(tmp_path)], env={"COLUMNS": "160"})
    assert done.exit_code == 1
    assert "under-voltage" in done.output
    assert f"throttling: {hardware.SUPPLY}" in done.output


def test_a_profile_is_offered_a_bad_one_left_out_and_a_bad_named_one_fails(tmp_path: Path) -> None:
    settings = device(tmp_path, "x.npz")
    named = msgspec.structs.replace(settings, profile=str(tmp_path / "profile.json"))
    assert only(storage.check_profile(patient(tmp_path, settings=settings))).status == "ok"
    (tmp_path / "profile.json").write_bytes(b"no json")
    assert only(storage.check_profile(patient(tmp_path, settings=settings))).status == "warning"
    found = only(storage.check_profile(patient(tmp_path, settings=named)))
    assert found.status == "failed"
    assert "profile.json" in found.found
    data = encode_profile(make_profile(make_case()))
    (tmp_path / "profile.json").write_bytes(data)
    assert only(storage.check_profile(patient(tmp_path, settings=named))).found == f"{len(data)} bytes are offered"
