"""TOML text to tables and back, so that what one side of a settings file writes the other reads as it was given."""

import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

from device_runtime.wire.errors import UsageError


def read_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of TOML `text`. Raises UsageError naming `source` and the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}.") from error


def to_toml(tables: Mapping[str, Any]) -> bytes:
    """The TOML file of `tables`, which `read_toml` reads back equal.

    Raises UsageError for a text that is none: a name of a file whose bytes are no UTF-8 comes in that way.
    """
    try:
        return tomli_w.dumps(tables).encode()
    except UnicodeEncodeError as error:
        begin, end = error.object.rfind("\n", 0, error.start) + 1, error.object.find("\n", error.end)
        line = error.object[begin:end]
        raise UsageError(f"{line!r} cannot stand in a settings file: it is not UTF-8; rename what it names.") from error
