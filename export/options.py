"""What a person writes in options of `espalier export`, read or refused in one sentence."""

import re
from typing import get_args

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Loss


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape written as comma-separated positive integers.

    >>> parse_shape("1,28,28")
    (1, 28, 28)

    Raises UsageError for anything else.
    """
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", part, re.ASCII) for part in parts):
        raise UsageError(f"--input {text!r} is no shape: write positive integers with commas, e.g. 1,28,28")
    return tuple(int(part) for part in parts)


def parse_loss(text: str) -> Loss:
    """The loss of that name. Raises UsageError for an unknown one."""
    for known in get_args(Loss):
        if text == known:
            found: Loss = known
            return found
    raise UsageError(f"there is no loss {text!r}: choose one of {', '.join(get_args(Loss))}")
