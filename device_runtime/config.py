"""The settings of a device, from a TOML file or the command line."""

from pathlib import Path

import msgspec

from device_runtime.personal import Choice, check_choice
from device_runtime.wire.errors import UsageError
from device_runtime.wire.names import check_name
from device_runtime.wire.settings import LinkSettings, check_link, parse_settings


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Local data: an .npz file, a folder of .npy files, or module:callable; and the names of its arrays."""

    source: str
    x: str = "x"
    y: str = "y"


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a device. `folder` holds its cache and spool; `threads` 0: what the board's file says, else all cores.

    personal: tensors that it keeps for itself and never uploads, "last" for the last layer, or names of parameters.
    profile: a record of `espalier device profile --json`, offered to the aggregator; empty: `folder`/profile.json,
    where there is one.
    """

    name: str
    folder: str
    data: DataSettings
    link: LinkSettings = LinkSettings()
    engine: str = "auto"
    threads: int = 1
    leave_when_released: bool = True
    personal: Choice = ()
    profile: str = ""


def load_device_settings(path: Path) -> DeviceSettings:
    """Read and check a device's TOML file.

    Raises UsageError naming the file and the key.
    """
    settings = parse_settings(read_settings_file(path), DeviceSettings, str(path))
    check_name(settings.name, f"{path}: name")
    check_name(settings.link.site, f"{path}: [link] site")
    check_link(settings.link, str(path))
    check_choice(settings.personal, str(path))
    if settings.threads < 0:
        raise UsageError(f"{path}: threads is {settings.threads}; use 0 for all cores, or a positive number.")
    return settings


def read_settings_file(path: Path) -> str:
    """The text of a settings file. Raises UsageError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")  # TOML is, whatever the locale
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings file {str(path)!r} cannot be read: {error}.") from error
