"""Runs on the board at its first boot: takes settings and secrets off the card, installs the runtime, starts it.

Lies on the boot partition as espalier/install.py, beside what it installs; standard library only. It may run again:
what is done already is kept. Secrets are moved before anything is installed, and then scrubbed from the card whatever
follows. What failed is told in espalier/install.log, which holds none.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNIT = "espalier-device.service"
# Where each file of units/ belongs.
PLACES = {
    "espalier-device.service": "etc/systemd/system/espalier-device.service",
    "espalier-sysusers.conf": "usr/lib/sysusers.d/espalier.conf",
    "espalier-journald.conf": "etc/systemd/journald.conf.d/50-espalier.conf",
    "espalier-time-wait.conf": "etc/systemd/system/systemd-time-wait-sync.service.d/espalier.conf",
}
# Secrets that are not the service's: each has its place, for root only.
ELSEWHERE = {"wifi.nmconnection": "etc/NetworkManager/system-connections/espalier.nmconnection"}
TIMEOUT_S = 3600


def main(root: Path = Path("/"), start: bool = False) -> int:
    """Every step in order; 0 when all were done."""
    log: list[str] = [time.strftime("%Y-%m-%dT%H:%M:%SZ first boot", time.gmtime())]
    taken = False
    try:
        place_units(root)
        run(["systemd-sysusers"], log, root)
        take_settings(root / "etc/espalier", root)
        taken = True
        wanted = json.loads((HERE / "install.json").read_text())
        set_clock_floor(root, int(wanted["flashed_s"]))
        install_runtime(root, wanted["version"], log)
        run(["systemctl", "daemon-reload"], log, root, must=False)
        run(["systemctl", "enable", "systemd-time-wait-sync.service"], log, root, must=False)
        run(["systemctl", "enable", UNIT], log, root)
        if start:
            run(["systemctl", "--no-block", "start", UNIT], log, root)
        log.append("done")
        return 0
    except (OSError, ValueError, KeyError, subprocess.SubprocessError, RuntimeError) as error:
        log.append(f"failed: {error}")
        return 1
    finally:
        if taken:
            scrub(HERE / "secrets")
        scrub_seeds(HERE.parent)
        (HERE / "install.log").write_text("\n".join(log) + "\n")
        os.sync()


def place_units(root: Path) -> None:
    """Units and drop-ins where systemd looks for them."""
    for name, place in PLACES.items():
        copy(HERE / "units" / name, root / place, 0o644)


def take_settings(settings: Path, root: Path) -> None:
    """device.toml and the secrets, readable for the service only. What is on the board already and not on the card
    stays."""
    settings.mkdir(parents=True, exist_ok=True)
    secrets = settings / "secrets"
    secrets.mkdir(exist_ok=True)
    copy(HERE / "device.toml", settings / "device.toml", 0o640)
    for file in sorted((HERE / "secrets").glob("*")):
        copy(file, root / ELSEWHERE[file.name] if file.name in ELSEWHERE else secrets / file.name, 0o600)
    settings.chmod(0o750)
    secrets.chmod(0o700)
    if root == Path("/"):
        for path in (settings, *settings.rglob("*")):
            shutil.chown(path, "espalier", "espalier")


def set_clock_floor(root: Path, flashed_s: int) -> None:
    """A board without a clock of its own starts in the past, where no certificate is valid yet: it is at least as late
    as when the card was made. systemd takes the date of this file as its floor at every boot."""
    epoch = root / "usr/lib/clock-epoch"
    epoch.parent.mkdir(parents=True, exist_ok=True)
    epoch.touch()
    os.utime(epoch, (flashed_s, flashed_s))
    if root == Path("/") and time.time() < flashed_s:
        time.clock_settime(time.CLOCK_REALTIME, flashed_s)


def install_runtime(root: Path, version: str, log: list[str]) -> None:
    """The release from the wheels on the card; without wheels it is left to a person."""
    home = root / "opt/espalier"
    copy(HERE / "releases.py", home / "releases.py", 0o755)
    lock = HERE / "wheels/requirements.lock"
    if not lock.is_file():
        log.append("no wheels on the card: install a release with /opt/espalier/releases.py")
        return
    command = [sys.executable, "-I", str(home / "releases.py"), "--root", str(home), "install", version]
    run([*command, "--wheels", str(lock.parent), "--lock", str(lock)], log, Path("/"))


def copy(source: Path, place: Path, mode: int) -> None:
    """A copy that is whole or absent, and never readable for more than `mode` says."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(place.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(source.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(mode)
    os.replace(fresh, place)


def scrub(folder: Path) -> None:
    """Overwrite and delete every file of a folder. On a card the old blocks may live on until they are used again."""
    for file in sorted(folder.glob("*")):
        with file.open("r+b") as handle:
            handle.write(bytes(file.stat().st_size))
            handle.flush()
            os.fsync(handle.fileno())
        file.unlink()
    if folder.is_dir():
        folder.rmdir()


def scrub_seeds(boot: Path) -> None:
    """cloud-init has read its files by now, and keeps what it needs: the key of the wireless network need not stay."""
    for name, text in {"user-data": "#cloud-config\n{}\n", "network-config": '{"network": {"version": 2}}\n'}.items():
        path = boot / name
        if path.is_file():
            size = path.stat().st_size
            with path.open("r+b") as handle:
                handle.write(text.encode().ljust(size, b"\n"))
                handle.truncate(max(len(text), 1))
                handle.flush()
                os.fsync(handle.fileno())


def run(command: list[str], log: list[str], root: Path, *, must: bool = True) -> None:
    """A program of the running system; nothing is run for a tree that is not the system's own."""
    if root != Path("/"):
        return
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()[-3:]
    log.append(f"{' '.join(command[:4])}: {done.returncode} {' | '.join(said)}")
    if done.returncode and must:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said[-1] if said else 'no reason'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Install the Espalier runtime from this boot partition.")
    parser.add_argument("--start", action="store_true", help="start the service at once")
    sys.exit(main(start=parser.parse_args().start))
