"""One device to be: what the options of `espalier flash` say of it, checked, and its settings file. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from device_runtime.wire.errors import UsageError
from device_runtime.wire.names import check_name
from device_runtime.wire.toml import to_toml
from firmware_profiles.schema import Board

_SSID_MAX, _PASSPHRASE = 32, range(8, 64)


@dataclass(frozen=True, slots=True)
class Wifi:
    """A wireless network; the pass phrase is turned into the key that the standard derives from it."""

    ssid: str
    passphrase: str
    country: str


@dataclass(frozen=True, slots=True)
class Device:
    """One device to be. `secrets` are files such as ca.crt, device.crt, device.key, password, by name; a one-time token
    for enrolment will be one more. `flashed_s` is now, in seconds since 1970: the board's clock is never before it."""

    board: Board
    name: str
    host: str
    port: int
    site: str = "site"
    username: str = ""
    data: str = "/var/lib/espalier/data"
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    ssh_key: str = ""
    user: str = "espalier-admin"
    wifi: Wifi | None = None
    flashed_s: int = 0


def check_device(device: Device) -> None:
    """Raise UsageError naming the option that is wrong."""
    check_name(device.name, "--name")
    check_name(device.site, "--site")
    check_name(device.user, "--user")
    if not device.host or re.search(r"[^A-Za-z0-9.:-]", device.host):
        raise UsageError(f"--gateway {device.host!r} is not a host name or an address.")
    if not 1 <= device.port <= 65535:
        raise UsageError(f"--gateway has port {device.port}; use 1 to 65535.")
    if "\n" in device.ssh_key or (device.ssh_key and not device.ssh_key.startswith(("ssh-", "ecdsa-", "sk-"))):
        raise UsageError("--ssh-key is not the public half of a key: one line that starts with ssh-, ecdsa- or sk-.")
    if "device.crt" in device.secrets and "device.key" not in device.secrets:
        raise UsageError("--certificate and --key go together: give both or neither.")
    if device.wifi:
        _check_wifi(device.wifi)


def _check_wifi(wifi: Wifi) -> None:
    if not 1 <= len(wifi.ssid.encode()) <= _SSID_MAX:
        raise UsageError(f"--wifi {wifi.ssid!r} must have 1 to {_SSID_MAX} bytes.")
    if len(wifi.passphrase) not in _PASSPHRASE:
        raise UsageError("the first line of --wifi-password-file must have 8 to 63 characters.")
    if not re.fullmatch(r"[A-Z]{2}", wifi.country):
        raise UsageError("--wifi-country must be two capital letters, such as DE; radios are off without it.")


def device_settings(device: Device) -> bytes:
    """The device's TOML file: what `espalier device run --config` reads."""
    threads = device.board.onnxruntime.intra_threads
    link = {"host": device.host, "port": device.port, "site": device.site, "allow_unsigned": True}
    keys = {"ca": "ca.crt", "certificate": "device.crt", "key": "device.key", "password_file": "password"}
    link |= {key: f"/etc/espalier/secrets/{name}" for key, name in keys.items() if name in device.secrets}
    link |= {"username": device.username} if device.username else {}
    tables = {
        "name": device.name,
        "folder": "/var/lib/espalier",
        "threads": int(threads.value) if threads else 0,
        "leave_when_released": False,
        "data": {"source": device.data},
        "link": link,
    }
    return b"# Written by espalier flash.\n" + to_toml(tables)
