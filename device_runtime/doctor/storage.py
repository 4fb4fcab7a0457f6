"""Is there room to work: the device's folder, its local data, and how much is written to the card."""

import os
import re
import tempfile
from pathlib import Path

from device_runtime.data import load_local_data
from device_runtime.doctor.finding import Finding, Patient, not_checked, without_settings
from device_runtime.offered_profile import read_offered
from device_runtime.wire.errors import UsageError
from firmware_profiles.facts import read_text

MIB = 1024 * 1024
FREE_MIN, FREE_GOOD = 256 * MIB, 1024 * MIB
SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the disk's own are
JOURNAL = ("etc/systemd/journald.conf", "etc/systemd/journald.conf.d/*.conf", "usr/lib/systemd/journald.conf.d/*.conf")
VOLATILE = (
    "sudo mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=volatile\\n' | "
    "sudo tee /etc/systemd/journald.conf.d/50-volatile.conf && sudo systemctl restart systemd-journald"
)


def check_folder(patient: Patient) -> list[Finding]:
    """The folder can be written durably, and has room for models and updates."""
    if patient.settings is None:
        return without_settings("folder")
    folder = Path(patient.settings.folder)
    owner = f"sudo install -d -o {os.environ.get('USER', '$USER')} {folder}"
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        return [
            Finding("folder", "failed", f"{str(existing)!r} is a file, not a folder", f"mv {existing} {existing}.old")
        ]
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as file:
            file.write(b"espalier")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return [Finding("folder", "failed", f"{str(existing)!r} cannot be written: {error.strerror}", owner)]
    room = os.statvfs(existing)
    free = room.f_bavail * room.f_frsize
    words = f"{str(folder)!r} can be written, {free // MIB} MiB free"
    remedy = f"du -xh {existing} | sort -h | tail"
    if free < FREE_MIN:
        return [Finding("folder", "failed", words, remedy)]
    return [Finding("folder", "warning", words, remedy) if free < FREE_GOOD else Finding("folder", "ok", words)]


def check_data(patient: Patient) -> list[Finding]:
    """The local data can be read."""
    if patient.settings is None:
        return without_settings("data")
    data = patient.settings.data
    try:
        local = load_local_data(data.source, data.x, data.y)
    except UsageError as error:
        return [Finding("data", "failed", str(error), "correct [data] in the settings file")]
    return [Finding("data", "ok", f"{len(local)} samples, x{list(local.x.shape[1:])} {local.x.dtype}")]


def check_profile(patient: Patient) -> list[Finding]:
    """The profile that the device offers is one: with a bad one that the settings name it does not start."""
    settings = patient.settings
    if settings is None:
        return without_settings("profile")
    try:
        data = read_offered(settings)
    except UsageError as error:
        return [Finding("profile", "failed" if settings.profile else "warning", str(error), "correct or remove it")]
    return [Finding("profile", "ok", "none is offered" if data is None else f"{len(data)} bytes are offered")]


def check_card_wear(patient: Patient) -> list[Finding]:
    """Little is written to an SD card: logs stay in memory; and how much was written since boot."""
    disks = sorted((patient.root / "sys/block").glob("mmcblk[0-9]"))
    if not disks:
        return not_checked("card wear", "there is no SD card or eMMC")
    words = _written(patient.root, disks[0])
    if not _journal_is_volatile(patient.root) and (patient.root / "var/log/journal").is_dir():
        return [Finding("card wear", "warning", f"{words}; the journal is written to it as well", VOLATILE)]
    return [Finding("card wear", "ok", words)]


def _written(root: Path, disk: Path) -> str:
    fields = (read_text(disk / "stat") or "").split()
    uptime = (read_text(root / "proc/uptime") or "").split()
    if len(fields) < 7 or not uptime:
        return f"{disk.name}: how much is written is not told"
    written, days = int(fields[6]) * SECTOR_BYTES, float(uptime[0]) / 86400
    rate = written / MIB / max(days, 1e-3)
    return f"{disk.name}: {written / MIB:.0f} MiB written in {days:.2f} days since boot, {rate:.0f} MiB a day"


def _journal_is_volatile(root: Path) -> bool:
    """The last file in the order of systemd decides."""
    files = [p for pattern in JOURNAL for p in sorted(root.glob(pattern))]
    ordered = files[:1] + sorted(files[1:], key=lambda p: p.name)
    texts = "\n".join(read_text(p) or "" for p in ordered)
    storage = re.findall(r"^\s*Storage\s*=\s*(\w+)", texts, re.MULTILINE)
    return bool(storage) and storage[-1] in ("volatile", "none")
