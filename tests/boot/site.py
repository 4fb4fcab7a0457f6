"""What stands around an emulated board: a federation on this host, its broker with TLS, and the card it is given."""

import io
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.demo.broker import start_broker
from aggregator.demo.plan import SITE, Options, device_arrays
from aggregator.settings import ModelSection, TrainingSection
from firmware_profiles.flash.device import Wifi
from firmware_profiles.flash.seeds import wifi_key
from tests.arm.federation import write_pictures
from tests.boot.machine import GATEWAY, GATEWAY_PORT, Machine
from tests.e2e.certificates import make_certificates
from tests.e2e.harness import Event, Fleet, espalier, fleet

HOST_DEVICE, BOARD = "device-01", "device-02"
DATA = "pictures"
PERSON = "espalier-admin"
FIRST_BOOT_TIMEOUT_S = 900.0
PASSWORD = "plain hedge growing"  # of a broker that lives for one test


@dataclass
class Site:
    """A federation with a device here and one on the board, and its broker with TLS, certificates and a password."""

    run: Fleet
    options: Options
    machine: Machine
    certificates: Path
    began_s: float = field(default_factory=time.monotonic)
    times_s: dict[str, float] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    more_secrets: list[bytes] = field(default_factory=list)

    def mark(self, what: str) -> None:
        """Note when something happened, in seconds since the site was set up."""
        self.times_s[what] = round(time.monotonic() - self.began_s, 1)

    def secrets(self) -> list[bytes]:
        """What must never be read anywhere but in the service's own folder."""
        key = (self.certificates / "client.key").read_text().splitlines()
        key_lines = [line.encode() for line in key if not line.startswith("-----")]
        return [PASSWORD.encode(), *key_lines, *self.more_secrets]


@contextmanager
def site(tmp_path: Path, rounds: int, epochs: int, devices_min: int = 2) -> Iterator[Site]:
    """Everything that stands before the board is switched on: its card is not written yet."""
    certificates = make_certificates(tmp_path, more=GATEWAY)
    passwords, password = tmp_path / "passwords", tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "gateway", PASSWORD], check=True, timeout=30)
    extra = (
        f"cafile {certificates}/ca.crt\ncertfile {certificates}/server.crt\nkeyfile {certificates}/server.key\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {passwords}\nuser root\n"
    )
    pictures = write_pictures(tmp_path / "pictures.npz", samples=160)
    training = TrainingSection(
        batch_size=8, local_epochs=epochs, learning_rate=0.003, momentum=0.0, update_dtype="fp32"
    )
    options = Options(
        rounds=rounds, devices=2, data=str(pictures), layout="hw", partition="iid", noise="none", engine="portable",
        seed=11, model=ModelSection(name="lenet5"), tables={"training": training}, deadline_s=3600.0,
    )  # fmt: skip
    link: dict[str, object] = {
        "ca": str(certificates / "ca.crt"),
        "certificate": str(certificates / "client.crt"),
        "key": str(certificates / "client.key"),
        "username": "gateway",
        "password_file": str(password),
    }
    ssh_key = tmp_path / "person"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh_key], check=True, timeout=30)
    broker = start_broker("mosquitto", tmp_path / "broker", extra=extra)
    machine = Machine(tmp_path / "card.img", tmp_path / "console.log", broker.port, ssh_key)
    try:
        with fleet(options, tmp_path / "run", broker.port, link=link, rounds={"devices_min": devices_min}) as run:
            yield Site(run, options, machine, certificates)
    finally:
        machine.stop()
        broker.stop()


def flash_image(to: Site, source: Path, wheelhouse: Path, *more: str | Path) -> None:
    """The command of the how-to; then the device's data are laid onto the card."""
    card = to.machine
    where = ("--out", card.card, "--data", f"/boot/firmware/{DATA}")
    _flash(to, "image", source, *where, "--wheelhouse", wheelhouse, *more)
    card.make_folder(DATA)
    for name, data in _data(to).items():
        card.write(f"{DATA}/{name}", data)


def flash_seed(to: Site, system: Path, wheelhouse: Path) -> None:
    """A stick for a system that is on its card already, with cloud-init as Debian brings it and the data in /srv."""
    card = to.machine
    copy_image(system, card.card)
    card.in_root("rm /etc/cloud/cloud.cfg.d/99_seeds.cfg", f"mkdir /srv/{DATA}")
    for name, data in _data(to).items():
        (to.certificates / name).write_bytes(data)
        card.in_root(f"write {to.certificates / name} /srv/{DATA}/{name}")
    card.seed = card.card.with_name("seed.img")
    _flash(to, "seed", "--out", card.seed, "--data", f"/srv/{DATA}", "--wheelhouse", wheelhouse)


def wifi_options(to: Site) -> tuple[str | Path, ...]:
    """Options for a wireless network, whose key is one more secret."""
    wifi = Wifi("greenhouse", "tomatoes in a row", "DE")
    passphrase = to.certificates / "wifi"
    passphrase.write_text(f"{wifi.passphrase}\n")
    to.more_secrets += [wifi_key(wifi).encode()]
    return "--wifi", wifi.ssid, "--wifi-password-file", passphrase, "--wifi-country", wifi.country


def _flash(to: Site, *arguments: str | Path) -> None:
    keys = to.certificates
    done = espalier(
        "flash", *arguments, "--board", "generic-aarch64", "--name", BOARD, "--site", SITE,
        "--gateway", f"{GATEWAY}:{GATEWAY_PORT}", "--ca", keys / "ca.crt",
        "--certificate", keys / "client.crt", "--key", keys / "client.key",
        "--username", "gateway", "--password-file", keys / "password", "--ssh-key", keys / "person.pub",
        timeout_s=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _data(to: Site) -> dict[str, bytes]:
    """The board's share of the samples, as the files that it reads."""
    files = {}
    for name, array in zip(("x.npy", "y.npy"), device_arrays(to.options, to.run.plan)[1], strict=True):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue()
    return files


def copy_image(source: Path, to: Path) -> None:
    """A copy with the holes of the original."""
    subprocess.run(["cp", "--sparse=always", source, to], check=True, timeout=120)


def without_cloud_init(system: Path, folder: Path) -> Path:
    """The same image as it would have been before cloud-init came: the first images of trixie had none."""
    image = folder / "before.img"
    copy_image(system, image)
    card = Machine(image, folder / "no.log", 0, folder / "no.key")
    card.remove("user-data", "meta-data", "network-config")
    card.write("issue.txt", b"Debian trixie laid out as Raspberry Pi OS of 2025-10-01\n")
    return image


def fix_up(card: Machine) -> None:
    """What the initramfs of Raspberry Pi OS does at the first start, and Debian's does not: where Imager says /boot it
    means the boot partition, which is mounted at /boot/firmware (imager_fixup of raspberrypi-sys-mods)."""
    line = card.read("cmdline.txt").decode()
    assert "systemd.run=/boot/firstrun.sh" in line
    card.write("cmdline.txt", line.replace("/boot/firstrun.sh", "/boot/firmware/firstrun.sh").encode())


def switch_on(place: Site, what: str) -> None:
    """Power, and a mark of when."""
    place.machine.power_on()
    place.mark(what)


def wait_for(place: Site, kind: str, timeout_s: float, *, count: int = 1, **fields: object) -> list[Event]:
    """Events of the aggregator that match, `count` at least; what the board says where they do not come in time."""
    deadline = time.monotonic() + timeout_s
    while len(found := place.run.events(kind, **fields)) < count:
        late = time.monotonic() > deadline
        assert not late, f"no {kind} {fields} within {timeout_s} s; the board says:\n{place.machine.said()[-3000:]}"
        place.machine.check_on()
        time.sleep(0.2)
    place.mark(" ".join([kind, *map(str, fields.values())]))
    return found


def ask(place: Site, command: str, data: bytes = b"") -> str:
    """What the board answers to a person who has logged in."""
    return place.machine.run(PERSON, command, data)
