"""Names of sites, devices and runs: one grammar that every broker accepts as a topic level."""

import re

from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import NAME_BYTES_MAX

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{NAME_BYTES_MAX - 1}}}")


def is_name(text: str) -> bool:
    """Whether `text` can stand as a topic level: `[a-z0-9][a-z0-9-]{0,62}`."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """Return `text`, or raise UsageError naming `what` it was meant for."""
    if not is_name(text):
        raise UsageError(
            f"{what} {text!r} is not a valid name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', "
            "starting with a letter or digit."
        )
    return text
