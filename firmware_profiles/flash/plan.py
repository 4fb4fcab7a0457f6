"""What is written onto a boot partition for one device: settings, secrets, wheels, the start of first boot."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

from device_runtime.wire.errors import UsageError
from device_runtime.wire.version import VERSION
from firmware_profiles.flash.device import Device, device_settings
from firmware_profiles.flash.seeds import (
    FIRSTRUN_BEFORE,
    FIRSTRUN_MARK,
    FOLDER,
    WIFI_SECRET,
    connection_profile,
    extend_cmdline,
    firstrun,
    instance_id,
    network_config,
    seed_user_data,
    to_json,
    user_data,
)

Format = Literal["cloud-init", "firstrun"]
FIRSTRUN_ARGUMENTS = (
    "systemd.run=/boot/firstrun.sh",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
)
LOOKED_AT = (
    *("cmdline.txt", "config.txt", "issue.txt"),
    *("user-data", "meta-data", "network-config", "firstrun.sh", FIRSTRUN_BEFORE),
)
SECRETS = f"{FOLDER}/secrets"
FREE_BYTES_MIN = 64 * 1024 * 1024
CLUSTER = 4096
CLOUD_INIT_SINCE = "2025-11-24"  # the first Raspberry Pi OS image that reads user-data
TRIXIE_SINCE = "2025-10-01"
UNITS = ("espalier-device.service", "espalier-sysusers.conf", "espalier-journald.conf", "espalier-time-wait.conf")


def detect_format(present: Mapping[str, bytes | None]) -> tuple[Format, str | None]:
    """How this image is set up at first boot, and the Python of its system ("3.13"; None where it is not told).

    `present` holds LOOKED_AT as they are. Raises UsageError when it
    is no boot partition of Raspberry Pi OS.
    """
    lacking = [name for name in ("cmdline.txt", "config.txt") if present.get(name) is None]
    if lacking:
        raise UsageError(f"the boot partition has no {' and no '.join(lacking)}: it is not one of Raspberry Pi OS.")
    found = re.search(rb"\b(20\d\d-\d\d-\d\d)\b", present.get("issue.txt") or b"")
    date = found[1].decode() if found else None
    seeds = present.get("user-data") is not None and present.get("meta-data") is not None
    cloud = seeds and (date is None or date >= CLOUD_INIT_SINCE)
    if date is None:
        return ("cloud-init", "3.13") if cloud else ("firstrun", None)
    return "cloud-init" if cloud else "firstrun", "3.13" if date >= TRIXIE_SINCE else "3.11"


def boot_files(
    device: Device, how: Format, present: Mapping[str, bytes | None], wheels: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Every file to write, by path; those that start the installation come last, so that a cut before them leaves an
    ordinary system. `present` holds LOOKED_AT as they are: what a person set in them stays. `wheels` holds
    requirements.lock and the wheels, empty to install a release by hand later."""
    out = payload(device, wheels)
    seeds, arguments = (_cloud_init if how == "cloud-init" else _firstrun)(device, present)
    out |= seeds
    out["cmdline.txt"] = extend_cmdline(present["cmdline.txt"] or b"", ["cgroup_enable=memory", *arguments])
    return out


def seed_files(device: Device, wheels: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same for a seed: a small medium of its own, which cloud-init finds by its label on any system that has it."""
    out = payload(device, wheels)
    if device.wifi:
        out["network-config"] = network_config(device.wifi, b"")
    out["meta-data"] = to_json({"instance-id": instance_id(device), "local-hostname": device.name})
    out["user-data"] = seed_user_data(device)
    return out


def payload(device: Device, wheels: Mapping[str, bytes]) -> dict[str, bytes]:
    """What is installed, by path; the same on every system."""
    out = {f"{FOLDER}/wheels/{name}": data for name, data in wheels.items()}
    out |= {f"{SECRETS}/{name}": data for name, data in device.secrets.items()}
    out |= {f"{FOLDER}/units/{name}": _resource("firmware_profiles.units", name) for name in UNITS}
    out[f"{FOLDER}/releases.py"] = _resource("firmware_profiles", "releases.py")
    out[f"{FOLDER}/install.py"] = _resource("firmware_profiles.flash", "first_boot.py")
    out[f"{FOLDER}/device.toml"] = device_settings(device)
    wanted = {"version": VERSION, "name": device.name, "board": device.board.id, "flashed_s": device.flashed_s}
    out[f"{FOLDER}/install.json"] = to_json(wanted)
    return out


def _cloud_init(device: Device, present: Mapping[str, bytes | None]) -> tuple[dict[str, bytes], list[str]]:
    """Its files, and what stands on the kernel's command line."""
    instance = instance_id(device)
    out, arguments = {}, [f"ds=nocloud;i={instance}"]
    if device.wifi:
        out["network-config"] = network_config(device.wifi, present.get("network-config") or b"")
        arguments.insert(0, f"cfg80211.ieee80211_regdom={device.wifi.country}")
    out["meta-data"] = to_json({"dsmode": "local", "instance-id": instance, "local-hostname": device.name})
    out["user-data"] = user_data(device, present.get("user-data") or b"")
    return out, arguments


def _firstrun(device: Device, present: Mapping[str, bytes | None]) -> tuple[dict[str, bytes], list[str]]:
    """Its files, and what stands on the kernel's command line."""
    before, out, arguments = present.get("firstrun.sh"), {}, list(FIRSTRUN_ARGUMENTS)
    theirs = before is not None and FIRSTRUN_MARK.encode() not in before
    kept = theirs or present.get(FIRSTRUN_BEFORE) is not None
    if device.wifi:
        if kept:
            raise UsageError("this card has settings of its own (firstrun.sh); leave out --wifi.")
        out[f"{SECRETS}/{WIFI_SECRET}"] = connection_profile(device.wifi)
        arguments.insert(0, f"cfg80211.ieee80211_regdom={device.wifi.country}")
    if before is not None and theirs:
        out[FIRSTRUN_BEFORE] = before
    out["firstrun.sh"] = firstrun(device, kept).encode()
    return out, arguments


def is_secret(path: str) -> bool:
    """Whether a file may hold what must not be written down elsewhere, not even as a hash."""
    return path.startswith(f"{SECRETS}/") or path in ("network-config", "user-data", "firstrun.sh", FIRSTRUN_BEFORE)


def room_for(contents: Mapping[str, bytes]) -> int:
    """The bytes that the files take on a FAT file system, at most."""
    return sum(-(-len(data) // CLUSTER) * CLUSTER + CLUSTER for data in contents.values())


def check_room(free_bytes: int, contents: Mapping[str, bytes]) -> int:
    """The bytes that will be left. Raises UsageError when too few."""
    needed = room_for(contents)
    if free_bytes - needed < FREE_BYTES_MIN:
        raise UsageError(
            f"the boot partition has {free_bytes // 2**20} MiB free; {needed // 2**20} MiB are needed, and "
            f"{FREE_BYTES_MIN // 2**20} MiB must stay free. Leave out --wheelhouse, or use another image."
        )
    return free_bytes - needed


def _resource(package: str, name: str) -> bytes:
    return files(package).joinpath(name).read_bytes()
