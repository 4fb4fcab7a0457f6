"""Settings from TOML text, strictly: an unknown key, a wrong type or a bad value is one sentence naming the place."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from device_runtime.wire.errors import UsageError
from device_runtime.wire.toml import read_toml

S = TypeVar("S")


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker. Setting `ca` turns TLS on; `certificate` and `key` go together.

    `password_file` holds the password on its first line, so that it stands in no settings file. `allow_unsigned`
    accepts messages without a signature, which this version cannot make: it must be true.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    site: str = "site"
    username: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    allow_unsigned: bool = False
    connect_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 30


def check_link(settings: LinkSettings, source: str) -> None:
    """Raise UsageError for link settings with which nothing would ever be accepted."""
    if not settings.allow_unsigned:
        raise UsageError(
            f"{source}: [link] allow_unsigned is false, but this version cannot sign messages: set it to true, "
            "on a network you trust or with TLS and client certificates."
        )


def parse_settings(text: str, type_: type[S], source: str) -> S:
    """TOML `text` as a settings record.

    Raises UsageError naming `source`, the key, and what would be right.
    """
    return convert_settings(read_toml(text, source), type_, source)


def convert_settings(
    tables: Mapping[str, object], type_: type[S], source: str, dec_hook: Callable[[type, Any], Any] | None = None
) -> S:
    """Tables as a settings record; `dec_hook` reads what msgspec does not know. Errors as `parse_settings`."""
    try:
        return msgspec.convert(tables, type_, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {_explain(str(error), type_)}.") from error


def _explain(text: str, type_: type[object]) -> str:
    """msgspec's message in the words of a settings file, with the nearest known key for an unknown one."""
    found = re.match(r"Object contains unknown field `(.+?)`(?: - at `\$\.?(.*?)`)?$", text)
    if not found:
        reason, path = place(text, type_)
        return f"[{path}] {reason}" if path else reason
    key, section = found.group(1), found.group(2) or ""
    known = _fields(type_, section)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'" if near else f"known keys: {', '.join(known)}"
    if section and key in _fields(type_, ""):
        hint = "it stands at the top, above the first [section]"
    return f"unknown key '{key}' in {f'[{section}]' if section else 'the top level'}; {hint}"


def place(text: str, type_: type[object]) -> tuple[str, str]:
    """msgspec's message with the choices of a key that has few, and the dotted path of its place, "" for the whole."""
    found = re.search(r" - at `\$\.?(.*?)`$", text)
    if not found:
        return text, ""
    reason, path = text[: found.start()], found.group(1)
    choices = _choices(type_, path)
    return (f"{reason}; use one of {', '.join(choices)}" if choices else reason), path


def _choices(type_: type[object], path: str) -> list[str]:
    """The values that a key of few values may have, given as a dotted path; none for any other."""
    section, _, key = path.rpartition(".")
    found = _types(type_, section).get(key)
    return [str(value) for value in get_args(found)] if get_origin(found) is Literal else []


def _fields(type_: type[object], section: str) -> list[str]:
    """The keys of a section, given as a dotted path."""
    return list(_types(type_, section))


def _types(type_: type[object], section: str) -> dict[str, object]:
    """The type of every key of a section, given as a dotted path; none where it is no section."""
    current: object = type_
    for part in filter(None, re.sub(r"\[.*?\]", "", section).split(".")):
        current = _types_of(current).get(part)
    return _types_of(current)


def _types_of(type_: object) -> dict[str, object]:
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return {}
    return {f.encode_name: f.type for f in msgspec.structs.fields(type_)}
