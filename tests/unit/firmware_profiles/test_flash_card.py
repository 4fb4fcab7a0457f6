"""Cards, plans, first boot and wheelhouses: what is written, in which order, and what of it stays."""

import itertools
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.wire.errors import UsageError
from firmware_profiles.catalogue import load_board
from firmware_profiles.flash import first_boot, wheelhouse
from firmware_profiles.flash.command import app, parse_gateway
from firmware_profiles.flash.device import Device, Wifi
from firmware_profiles.flash.plan import boot_files, detect_format
from firmware_profiles.flash.seeds import connection_profile, extend_cmdline, wifi_key
from tests.unit.firmware_profiles.images import BOOKWORM, CMDLINE, TRIXIE

runner = CliRunner()
KEY = wifi_key(Wifi("greenhouse", "correct horse battery", "DE"))
BOARD = ["--board", "rpi4b", "--name", "bench", "--gateway", "gateway.local"]


def boot_folder(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("files", "how"), [(TRIXIE, "cloud-init"), (BOOKWORM, "firstrun")])
def test_a_mounted_card_gets_the_same_files(files: dict[str, str], how: str, tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", files)
    done = runner.invoke(app, ["card", str(card), *BOARD, "--json"])
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert record["format"] == how
    assert all((card / row["path"]).stat().st_size == row["size_bytes"] for row in record["files"])
    assert not list(card.rglob("*.new"))


def test_a_card_can_be_prepared_again(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", TRIXIE)
    for site in ("one", "two", "two"):
        assert runner.invoke(app, ["card", str(card), *BOARD, "--site", site]).exit_code == 0
    cmdline = (card / "cmdline.txt").read_text()
    assert cmdline.count("ds=nocloud") == 1
    assert cmdline.count("cgroup_enable=memory") == 1


def test_what_starts_the_installation_is_written_last() -> None:
    device = Device(board=load_board("rpi5"), name="bench", host="g", port=1883)
    written = list(boot_files(device, "cloud-init", {"cmdline.txt": CMDLINE.encode()}, {"requirements.lock": b""}))
    assert written[-2:] == ["user-data", "cmdline.txt"]
    assert written[0] == "espalier/wheels/requirements.lock"


def test_every_preparation_is_a_new_instance_that_cloud_init_acts_on() -> None:
    found = set()
    for now in (1_700_000_000, 1_700_000_001):
        device = Device(board=load_board("rpi5"), name="bench", host="g", port=1883, flashed_s=now)
        contents = boot_files(device, "cloud-init", {"cmdline.txt": CMDLINE.encode()}, {})
        instance = json.loads(contents["meta-data"])["instance-id"]
        assert contents["cmdline.txt"].decode().endswith(f" ds=nocloud;i={instance}\n")
        found.add(instance)
    assert len(found) == 2


IMAGER = """#cloud-config
hostname: greenhouse-3
user:
  name: anna
  passwd: "$6$rounds=4096$salt$hash"
"""


FROM_IMAGER = {**TRIXIE, "user-data": IMAGER, "network-config": "network:\n  version: 2\n"}


def test_what_a_person_set_in_the_imager_stays_word_for_word_and_however_often_it_is_prepared(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", FROM_IMAGER)
    for _ in range(2):
        assert runner.invoke(app, ["card", str(card), *BOARD]).exit_code == 0
        head, _, body = (card / "user-data").read_text().partition("\n")
        theirs, ours = json.loads(body)
        assert head == "#cloud-config-archive"
        assert theirs == {"content": IMAGER}
        assert ours["content"] == "#!/bin/sh\nexec python3 -I /boot/firmware/espalier/install.py --start\n"
        assert (card / "network-config").read_text() == "network:\n  version: 2\n"


def test_an_option_that_would_undo_what_a_person_set_is_refused(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", FROM_IMAGER)
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA anna\n")
    (tmp_path / "wifi").write_text("correct horse battery\n")
    wifi = ["--wifi", "x", "--wifi-password-file", str(tmp_path / "wifi"), "--wifi-country", "DE"]
    for more, said in ((["--ssh-key", str(tmp_path / "key.pub")], "leave out --ssh-key"), (wifi, "leave out --wifi")):
        assert said in str(runner.invoke(app, ["card", str(card), *BOARD, *more]).exception)
        assert (card / "user-data").read_text() == IMAGER


def test_a_persons_firstrun_runs_before_ours(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", {**BOOKWORM, "firstrun.sh": "#!/bin/bash\necho theirs\n"})
    for _ in range(2):
        assert runner.invoke(app, ["card", str(card), *BOARD]).exit_code == 0
        script = (card / "firstrun.sh").read_text()
        assert (card / "espalier/firstrun-before.sh").read_text() == "#!/bin/bash\necho theirs\n"
        assert script.index("firstrun-before.sh") < script.index("install.py")
        assert (card / "cmdline.txt").read_text().count("systemd.run=") == 1


def test_a_login_by_key_is_set_up_where_the_image_has_none(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", TRIXIE)
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA anna\n")
    assert runner.invoke(app, ["card", str(card), *BOARD, "--ssh-key", str(tmp_path / "key.pub")]).exit_code == 0
    data = json.loads((card / "user-data").read_text().partition("\n")[2])
    assert data["user"]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA anna"]
    assert data["runcmd"][0] == ["systemctl", "enable", "--now", "ssh"]


def test_firstrun_is_a_script_that_bash_can_read(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", {**BOOKWORM, "firstrun.sh": "echo theirs\n"})
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA anna's\n")
    assert runner.invoke(app, ["card", str(card), *BOARD, "--ssh-key", str(tmp_path / "key.pub")]).exit_code == 0
    assert subprocess.run(["bash", "-n", str(card / "firstrun.sh")], timeout=30, check=False).returncode == 0


def test_a_folder_that_is_not_there_or_no_boot_partition_is_refused(tmp_path: Path) -> None:
    assert "is the card mounted?" in str(runner.invoke(app, ["card", str(tmp_path / "none"), *BOARD]).exception)
    assert "no cmdline.txt and no config.txt" in str(runner.invoke(app, ["card", str(tmp_path), *BOARD]).exception)


@pytest.mark.parametrize(
    ("date", "seeds", "expected"),
    [
        ("2026-06-18", True, ("cloud-init", "3.13")),
        ("2025-11-24", True, ("cloud-init", "3.13")),
        ("2025-10-01", True, ("firstrun", "3.13")),  # its user-data has no effect
        ("2025-05-13", False, ("firstrun", "3.11")),
        (None, True, ("cloud-init", "3.13")),
        (None, False, ("firstrun", None)),
    ],
)
def test_the_format_follows_the_images_date_and_files(date: str | None, seeds: bool, expected: object) -> None:
    present: dict[str, bytes | None] = {"cmdline.txt": b"x", "config.txt": b""}
    if date:
        present["issue.txt"] = f"Raspberry Pi reference {date}\nGenerated using pi-gen\n".encode()
    if seeds:
        present |= {"user-data": b"#cloud-config\n", "meta-data": b""}
    assert detect_format(present) == expected


@pytest.mark.parametrize("text", [b"", b"one\ntwo\n", b"\xff\xfe"])
def test_a_command_line_that_is_not_one_line_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"cmdline\.txt"):
        extend_cmdline(text, ["x"])


def test_the_key_of_a_wireless_network_is_the_standards_and_its_pass_phrase_is_not_written() -> None:
    # IEEE 802.11, annex J.4.2: test vectors of the pass phrase mapping.
    known = "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert wifi_key(Wifi("IEEE", "password", "DE")) == known
    wifi = Wifi("greenhouse", "correct horse battery", "DE")
    device = Device(board=load_board("rpi5"), name="bench", host="g", port=1883, wifi=wifi)
    contents = boot_files(device, "cloud-init", {"cmdline.txt": CMDLINE.encode()}, {})
    assert not any(b"correct horse" in data for data in contents.values())
    assert b"cfg80211.ieee80211_regdom=DE" in contents["cmdline.txt"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gateway.local", ("gateway.local", 1883)),
        ("gateway.local:8883", ("gateway.local", 8883)),
        ("[fd00::1]:8883", ("fd00::1", 8883)),
        ("fd00::1", ("fd00::1", 1883)),
        ("[fd00::1]", ("fd00::1", 1883)),
    ],
)
def test_a_gateway_is_a_host_with_or_without_a_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_gateway(text, 1883) == expected


# --- first boot ---------------------------------------------------------------------------------------------------


def prepared(tmp_path: Path, *more: str, files: dict[str, str] = TRIXIE) -> Path:
    card = boot_folder(tmp_path / "bootfs", files)
    (tmp_path / "password").write_text("geheim\n")
    secret = ["--username", "bench", "--password-file", str(tmp_path / "password")]
    assert runner.invoke(app, ["card", str(card), *BOARD, *secret, *more]).exit_code == 0
    return card


def test_first_boot_places_everything_and_leaves_no_secret_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wifi").write_text("correct horse battery\n")
    card = prepared(
        tmp_path, "--wifi", "greenhouse", "--wifi-password-file", str(tmp_path / "wifi"), "--wifi-country", "DE"
    )
    assert KEY in (card / "network-config").read_text()
    monkeypatch.setattr(first_boot, "HERE", card / "espalier")
    root = tmp_path / "root"
    for _ in range(2):  # a second run keeps what the first did
        assert first_boot.main(root) == 0
        secret = root / "etc/espalier/secrets/password"
        assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("geheim\n", 0o600)
        assert (root / "etc/systemd/system/espalier-device.service").is_file()
        assert (root / "etc/espalier/device.toml").stat().st_mode & 0o007 == 0
        assert (root / "opt/espalier/releases.py").is_file()
        assert abs((root / "usr/lib/clock-epoch").stat().st_mtime - time.time()) < 600
    assert not (card / "espalier/secrets").exists()
    everything = b"".join(p.read_bytes() for p in card.rglob("*") if p.is_file())
    assert b"geheim" not in everything
    assert KEY.encode() not in everything
    assert (card / "user-data").read_text() == "#cloud-config\n{}\n"
    assert (card / "espalier/install.log").read_text().endswith("done\n")


def test_before_cloud_init_the_wireless_network_goes_to_the_network_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wifi").write_text("correct horse battery\n")
    wifi = ("--wifi", "greenhouse", "--wifi-password-file", str(tmp_path / "wifi"), "--wifi-country", "DE")
    card = prepared(tmp_path, *wifi, files=BOOKWORM)
    assert "cfg80211.ieee80211_regdom=DE" in (card / "cmdline.txt").read_text()
    assert "rfkill unblock wifi" in (card / "firstrun.sh").read_text()
    monkeypatch.setattr(first_boot, "HERE", card / "espalier")
    root = tmp_path / "root"
    assert first_boot.main(root) == 0
    profile = root / "etc/NetworkManager/system-connections/espalier.nmconnection"
    assert profile.stat().st_mode & 0o777 == 0o600, "NetworkManager ignores a profile that others may read"
    assert f"ssid=greenhouse\n[wifi-security]\nkey-mgmt=wpa-psk\npsk={KEY}\n" in profile.read_text()
    assert [p.name for p in (root / "etc/espalier/secrets").iterdir()] == ["password"], "not the service's business"
    assert KEY.encode() not in b"".join(p.read_bytes() for p in card.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("ssid", "written"),
    [("shed-2.4", "shed-2.4"), ("a;b", "97;59;98;"), ("12", "49;50;"), (" x", "32;120;"), ("ü", "195;188;")],
)
def test_names_of_networks_that_a_keyfile_would_misread_are_written_as_bytes(ssid: str, written: str) -> None:
    assert f"\nssid={written}\n" in connection_profile(Wifi(ssid, "correct horse", "DE")).decode()


def test_a_wireless_network_beside_a_persons_firstrun_is_refused(tmp_path: Path) -> None:
    card = boot_folder(tmp_path / "bootfs", {**BOOKWORM, "firstrun.sh": "echo theirs\n"})
    (tmp_path / "wifi").write_text("correct horse battery\n")
    wifi = ["--wifi", "x", "--wifi-password-file", str(tmp_path / "wifi"), "--wifi-country", "DE"]
    assert "leave out --wifi" in str(runner.invoke(app, ["card", str(card), *BOARD, *wifi]).exception)
    assert (card / "cmdline.txt").read_text() == BOOKWORM["cmdline.txt"]


def test_first_boot_that_fails_says_so_on_the_card_and_still_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = prepared(tmp_path)
    (card / "espalier/install.json").write_text("{")
    monkeypatch.setattr(first_boot, "HERE", card / "espalier")
    assert first_boot.main(tmp_path / "root") == 1
    assert "failed: " in (card / "espalier/install.log").read_text()
    assert not (card / "espalier/secrets").exists()
    assert (tmp_path / "root/etc/espalier/secrets/password").is_file()


def test_what_runs_on_the_board_needs_the_standard_library_only(tmp_path: Path) -> None:
    card = prepared(tmp_path)
    for name, argument in (("install.py", "--help"), ("releases.py", "--help")):
        command = [sys.executable, "-I", "-S", str(card / "espalier" / name), argument]
        assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0, name


# --- wheelhouse ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("python", "more"), [("3.11", {"backports.zstd>=1.3"}), ("3.14", set())])
def test_the_wheels_asked_for_are_the_base_install_of_a_64_bit_arm_board(
    python: str, more: set[str], tmp_path: Path
) -> None:
    """Read off pyproject.toml by hand; what follows a semicolon there holds for the board, not for this machine."""
    asked: list[list[str]] = []
    with pytest.raises(UsageError, match="no wheel of espalier-fl"):
        wheelhouse.gather(tmp_path / "house", python, None, asked.append)
    lines = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {line for line in lines if ";" in line} == {
        "backports.zstd>=1.3; python_version < '3.14'",
        "onnxruntime-training-cpu==1.19.2; platform_machine == 'x86_64' and python_version < '3.13'",
        "onnxruntime>=1.22; platform_machine != 'x86_64' or python_version >= '3.13'",
    }, "a new marker: say below what it means on a board"
    everywhere = {line.replace(">=2.1,<3", "<3,>=2.1") for line in lines if ";" not in line}
    (wanted,) = ({word for word in command if "=" in word[1:] and word[0].isalpha()} for command in asked[1:])
    assert wanted == {*everywhere, "onnxruntime>=1.22", *more}


def gathered(folder: Path, *names: str) -> wheelhouse.Wheelhouse:
    own = folder.parent / "espalier_fl-0.1.0-py3-none-any.whl"
    own.write_bytes(b"ours")

    def download(_command: list[str]) -> None:
        for name in names:
            (folder / name).write_bytes(name.encode())

    return wheelhouse.gather(folder, "3.13", own, download)


def test_a_wheelhouse_is_locked_and_read_back_with_every_hash(tmp_path: Path) -> None:
    names = ("rich-15.0.0-py3-none-any.whl", "msgspec-0.22.0-cp313-cp313-manylinux_2_28_aarch64.whl")
    house = gathered(tmp_path / "house", *names)
    assert [w.name for w in house.wheels] == ["espalier-fl", "msgspec", "rich"]
    again, contents = wheelhouse.load(tmp_path / "house")
    assert again == house
    assert set(contents) == {*names, "espalier_fl-0.1.0-py3-none-any.whl", "requirements.lock"}
    assert contents["requirements.lock"].decode().count("--hash=sha256:") == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("numpy-2.5.5-cp313-cp313-manylinux_2_28_x86_64.whl", "is not for Python 3.13 on 64-bit ARM"),
        ("numpy-2.5.5-cp311-cp311-manylinux_2_28_aarch64.whl", "is not for Python 3.13 on 64-bit ARM"),
        ("espalier_fl-0.2.0-py3-none-any.whl", "several wheels of espalier-fl"),
    ],
)
def test_a_wheel_that_does_not_fit_is_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        gathered(tmp_path / "house", name)


def test_the_compiled_operators_are_put_in_and_locked(tmp_path: Path) -> None:
    own, kernels = (tmp_path / name for name in (
        "espalier_fl-0.1.0-py3-none-any.whl", "espalier_kernels-1.0-py3-none-manylinux_2_28_aarch64.whl",
    ))  # fmt: skip
    for wheel in (own, kernels):
        wheel.write_bytes(b"ours")
    house = wheelhouse.gather(tmp_path / "house", "3.13", own, lambda _: None, kernels)
    assert [w.name for w in house.wheels] == ["espalier-fl", "espalier-kernels"]
    for_x86 = tmp_path / "espalier_kernels-1.0-py3-none-manylinux_2_28_x86_64.whl"
    for_x86.write_bytes(b"theirs")
    with pytest.raises(UsageError, match=r"is not for Python 3\.13 on 64-bit ARM"):
        wheelhouse.gather(tmp_path / "wrong", "3.13", own, lambda _: None, for_x86)
    with pytest.raises(UsageError, match=r"--kernels .* is not a wheel; make one with: scripts/kernel-wheels"):
        wheelhouse.gather(tmp_path / "none", "3.13", own, lambda _: None, tmp_path / "missing.whl")


def test_a_wheelhouse_is_not_gathered_over_another(tmp_path: Path) -> None:
    gathered(tmp_path / "house")
    with pytest.raises(UsageError, match="is not empty"):
        gathered(tmp_path / "house")


def test_pip_is_asked_for_locked_binary_wheels_of_the_board_only(tmp_path: Path) -> None:
    asked: list[list[str]] = []
    with pytest.raises(UsageError, match="no wheel of espalier-fl"):
        wheelhouse.gather(tmp_path / "house", "3.11", None, asked.append)
    for command in asked:
        assert "--only-binary=:all:" in command
        assert command[command.index("--python-version") + 1] == "311"
        assert all(p.endswith("aarch64") for c, p in itertools.pairwise(command) if c == "--platform")
