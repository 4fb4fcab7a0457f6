"""Images: both formats injected, read back by mtools, found sound by fsck; what does not fit leaves nothing behind."""

import hashlib
import json
import lzma
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.wire.errors import UsageError
from firmware_profiles.flash.command import app
from firmware_profiles.flash.partition import find_boot_partition, read_partitions
from firmware_profiles.flash.wheelhouse import lock
from tests.unit.firmware_profiles.images import (
    BOOKWORM,
    CMDLINE,
    FIRST,
    MIB,
    MISSING,
    SECTOR,
    TRIXIE,
    fsck,
    make_image,
    read_back,
    tool,
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
runner = CliRunner()
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_image(folder / "trixie.img", TRIXIE)
    make_image(folder / "bookworm.img", BOOKWORM)
    (folder / "trixie.img.xz").write_bytes(lzma.compress((folder / "trixie.img").read_bytes(), preset=0))
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    return folder


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A wheelhouse of constructed wheels for Python 3.13."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "espalier_fl-0.1.0-py3-none-any.whl").write_bytes(b"ours" * 5000)
    (folder / "numpy-2.5.5-cp313-cp313-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl").write_bytes(b"theirs" * 9000)
    lock(folder, "3.13")
    return folder


def options(images: Path, out: Path, *more: str, source: str = "trixie.img") -> list[str]:
    given = ["--board", "rpi5", "--name", "bench", "--gateway", "gateway.local:8883", "--out", str(out)]
    return ["image", str(images / source), *given, *more]


def secret(images: Path) -> list[str]:
    return ["--ca", str(images / "ca.crt"), "--username", "bench", "--password-file", str(images / "password")]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(arguments: list[str], out: Path) -> str:
    """The sentence of a refusal, which leaves nothing at `out`."""
    done = runner.invoke(app, arguments)
    assert isinstance(done.exception, UsageError), done.output
    assert not list(out.parent.glob(f"{out.name}*")), "a half-good image was left"
    return str(done.exception)


@pytest.mark.parametrize(("source", "how"), [("trixie.img", "cloud-init"), ("bookworm.img", "firstrun")])
def test_both_formats_are_written_sound_and_change_nothing_outside_the_boot_partition(
    source: str, how: str, images: Path, tmp_path: Path
) -> None:
    out, before = tmp_path / "out.img", sha(images / source)
    (tmp_path / "out.img.partial").write_text("of a run that was killed")
    done = runner.invoke(app, options(images, out, *secret(images), "--json", source=source))
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert (record["format"], record["checked"]["fsck"]) == (how, "clean")
    assert sha(images / source) == before, "the source is only read"
    assert out.stat().st_mode & 0o077 == 0, "it holds secrets"
    assert not (tmp_path / "out.img.partial").exists()
    fsck(out)
    old, new = (images / source).read_bytes(), out.read_bytes()
    end = FIRST * SECTOR + 160 * MIB
    assert len(new) == len(old)
    assert new[: FIRST * SECTOR] == old[: FIRST * SECTOR]
    assert new[end:] == old[end:]
    for row in record["files"]:
        data = read_back(out, row["path"])
        assert len(data) == row["size_bytes"]
        assert row.get("secret") or hashlib.sha256(data).hexdigest() == row["sha256"]
    assert read_back(out, "kernel8.img") == TRIXIE["kernel8.img"].encode()


@pytest.mark.parametrize(("files", "how"), [(TRIXIE, "cloud-init"), (BOOKWORM, "firstrun")])
def test_the_official_geometry_of_512_mib_is_taken(files: dict[str, str], how: str, tmp_path: Path) -> None:
    source = make_image(tmp_path / "official.img", files, boot_mib=512)
    done = runner.invoke(app, options(tmp_path, tmp_path / "out.img", "--json", source=source.name))
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert record["format"] == how
    assert record["image"]["partition_size_bytes"] == 512 * MIB
    assert "espalier" in tool("mdir", "-b", "-i", f"{tmp_path / 'out.img'}@@{FIRST * SECTOR}", "::/")


def test_cloud_init_gets_a_new_instance_a_name_and_one_command(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    assert runner.invoke(app, options(images, out, *secret(images))).exit_code == 0
    user = read_back(out, "user-data").decode()
    assert user.startswith("#cloud-config\n")
    data = json.loads(user.partition("\n")[2])
    assert data["hostname"] == "bench"
    assert data["runcmd"] == [["python3", "-I", "/boot/firmware/espalier/install.py", "--start"]]
    meta = json.loads(read_back(out, "meta-data"))
    cmdline = read_back(out, "cmdline.txt").decode()
    assert cmdline.count("\n") == 1
    assert cmdline.startswith(CMDLINE.rstrip())
    assert cmdline.endswith(f" cgroup_enable=memory ds=nocloud;i={meta['instance-id']}\n")


def test_firstrun_undoes_its_own_start_whatever_happens(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    assert runner.invoke(app, options(images, out, source="bookworm.img")).exit_code == 0
    assert "systemd.run=/boot/firstrun.sh" in read_back(out, "cmdline.txt").decode()
    script = read_back(out, "firstrun.sh").decode()
    assert script.index("cmdline.txt") < script.index("install.py")
    assert "set +e" in script


def test_the_devices_settings_are_valid_and_name_the_gateway_and_the_secrets(images: Path, tmp_path: Path) -> None:
    from device_runtime.config import load_device_settings

    out = tmp_path / "out.img"
    assert runner.invoke(app, options(images, out, *secret(images))).exit_code == 0
    (tmp_path / "device.toml").write_bytes(read_back(out, "espalier/device.toml"))
    settings = load_device_settings(tmp_path / "device.toml")
    assert (settings.name, settings.threads, settings.leave_when_released) == ("bench", 4, False)
    assert (settings.link.host, settings.link.port) == ("gateway.local", 8883)
    assert settings.link.ca == "/etc/espalier/secrets/ca.crt"
    assert settings.link.password_file == "/etc/espalier/secrets/password"


def test_the_manifest_and_what_is_printed_hold_no_secret_and_no_hash_of_one(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    done = runner.invoke(app, options(images, out, *secret(images)))
    told = done.output + (tmp_path / "out.img.json").read_text()
    data = (images / "password").read_bytes()
    assert read_back(out, "espalier/secrets/password") == data
    assert PASSWORD not in told
    assert hashlib.sha256(data).hexdigest() not in told


def test_a_packed_image_is_unpacked_and_gives_the_same_bytes(images: Path, tmp_path: Path) -> None:
    for name, source in (("a.img", "trixie.img"), ("b.img", "trixie.img.xz")):
        done = runner.invoke(app, options(images, tmp_path / name, "--sha256", sha(images / source), source=source))
        assert done.exit_code == 0, done.exception
    assert read_back(tmp_path / "a.img", "user-data") == read_back(tmp_path / "b.img", "user-data")
    assert (tmp_path / "a.img").stat().st_size == (tmp_path / "b.img").stat().st_size


def test_wheels_travel_with_their_lock(images: Path, house: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    done = runner.invoke(app, options(images, out, "--wheelhouse", str(house)))
    assert done.exit_code == 0, done.exception
    for path in (*house.glob("*.whl"), house / "requirements.lock"):
        assert read_back(out, f"espalier/wheels/{path.name}") == path.read_bytes()
    fsck(out)


def test_a_seed_is_a_medium_that_cloud_init_finds_by_its_label(images: Path, house: Path, tmp_path: Path) -> None:
    out = tmp_path / "seed.img"
    given = ["--board", "generic-aarch64", "--name", "bench", "--gateway", "gateway.local", "--out", str(out)]
    done = runner.invoke(app, ["seed", *given, "--wheelhouse", str(house), *secret(images), "--json"])
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert record["checked"] == {"read_back": "equal", "fsck": "clean"}
    assert out.stat().st_mode & 0o077 == 0
    assert "CIDATA" in tool("mdir", "-i", str(out), "::/")
    copy = tmp_path / "user-data"
    tool("mcopy", "-i", str(out), "::/user-data", str(copy))
    commands = json.loads(copy.read_text().partition("\n")[2])["runcmd"]
    assert commands[1] == ["mount", "LABEL=CIDATA", "/run/espalier-seed"]
    assert commands[2] == ["python3", "-I", "/run/espalier-seed/espalier/install.py", "--start"]
    assert "exists" in str(runner.invoke(app, ["seed", *given]).exception)


# --- refusals: a sentence, and nothing left behind ---------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.5, 0.97, 0.999999])
@pytest.mark.parametrize("source", ["trixie.img", "trixie.img.xz"])
def test_an_image_that_was_cut_short_is_a_clear_error_and_never_a_half_good_image(
    source: str, share: float, images: Path, tmp_path: Path
) -> None:
    data = (images / source).read_bytes()
    (tmp_path / source).write_bytes(data[: int(len(data) * share)])
    out = tmp_path / "new" / "out.img"
    out.parent.mkdir()
    sentence = refused(options(tmp_path, out, source=source), out)
    assert "cut short" in sentence or "damaged" in sentence


def test_a_damaged_packed_image_is_refused(images: Path, tmp_path: Path) -> None:
    data = bytearray((images / "trixie.img.xz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "x.img.xz").write_bytes(data)
    assert "damaged" in refused(options(tmp_path, tmp_path / "out.img", source="x.img.xz"), tmp_path / "out.img")


def test_a_hash_that_was_not_published_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    assert "not the one of --sha256" in refused(options(images, out, "--sha256", "0" * 64), out)


def test_another_label_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "x.img", TRIXIE, label="CAMERA")
    sentence = refused(options(tmp_path, tmp_path / "out.img", source="x.img"), tmp_path / "out.img")
    assert "labelled 'CAMERA', not 'bootfs'" in sentence


def test_a_partition_without_the_files_of_raspberry_pi_os_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "x.img", {"config.txt": ""})
    sentence = refused(options(tmp_path, tmp_path / "out.img", source="x.img"), tmp_path / "out.img")
    assert "has no cmdline.txt: it is not one of Raspberry Pi OS" in sentence


def test_too_little_room_is_refused_with_the_numbers(tmp_path: Path) -> None:
    make_image(tmp_path / "x.img", TRIXIE, boot_mib=64)
    sentence = refused(options(tmp_path, tmp_path / "out.img", source="x.img"), tmp_path / "out.img")
    assert "64 MiB must stay free" in sentence


def test_wheels_for_another_python_are_refused(images: Path, house: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    sentence = refused(options(images, out, "--wheelhouse", str(house), source="bookworm.img"), out)
    assert "the image has Python 3.11, the wheelhouse 3.13; gather one with --python 3.11" in sentence


def test_a_changed_wheel_is_refused(images: Path, house: Path, tmp_path: Path) -> None:
    (house / "espalier_fl-0.1.0-py3-none-any.whl").write_bytes(b"evil")
    out = tmp_path / "out.img"
    assert "not what was locked" in refused(options(images, out, "--wheelhouse", str(house)), out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "Bench!"], "--name 'Bench!' is not a valid name"),
        (["--board", "rpi9"], "there is no board 'rpi9'"),
        (["--board", "x86-gateway"], "takes no image"),
        (["--gateway", "a b"], "--gateway 'a b' is not a host name"),
        (["--gateway", "gateway:99999"], "port 99999"),
        (["--gateway", "gateway:http"], "the port is not a number"),
        (["--username", "me"], "--username and --password-file go together"),
        (["--certificate", "x.crt"], "--certificate and --key go together"),
        (["--ca", "none.crt"], "--ca 'none.crt' cannot be read"),
        (["--out", "out.iso"], "must end in .img"),
    ],
)
def test_a_wrong_option_is_named(more: list[str], said: str, images: Path, tmp_path: Path) -> None:
    assert said in refused(options(images, tmp_path / "out.img", *more), tmp_path / "out.img")


def test_a_file_that_is_there_is_not_written_over(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out.img").write_text("mine")
    done = runner.invoke(app, options(images, tmp_path / "out.img"))
    assert "exists; give another name" in str(done.exception)
    assert (tmp_path / "out.img").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b", bytes(4096), b"hello" * 1000])
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(content)
    assert refused(options(tmp_path, tmp_path / "out.img", source="x.img"), tmp_path / "out.img")


def test_the_boot_partition_is_found_in_a_gpt_as_well(images: Path, tmp_path: Path) -> None:
    image = bytearray((images / "trixie.img").read_bytes())
    image[446 + 4] = 0xEE
    image[512:520] = b"EFI PART"
    image[512 + 72 : 512 + 88] = struct.pack("<QII", 2, 4, 128)
    last = FIRST + 160 * MIB // SECTOR - 1
    image[1024:1152] = bytes(range(1, 33)) + struct.pack("<QQ", FIRST, last) + bytes(80)
    (tmp_path / "gpt.img").write_bytes(image)
    assert find_boot_partition(tmp_path / "gpt.img") == find_boot_partition(images / "trixie.img")
    with (tmp_path / "gpt.img").open("rb") as file:
        assert len(read_partitions(file, "gpt")) == 1
