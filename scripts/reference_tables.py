"""Keeps the tables of docs/reference/ true: keys, types, defaults and options come from the code, meanings are written.

    python scripts/reference_tables.py            fill in what changed
    python scripts/reference_tables.py --check    exit status 1 where a page no longer agrees with the code

A table stands between two comments. `<!-- keys module:Struct -->` is a section of a settings file, `<!-- fields
module:Struct -->` a record of a file that Espalier writes, `<!-- rules module:REGISTRY -->` the rules of one part of a
method, `<!-- options name ... -->` a command; `<!-- end -->` closes each. The last column of keys and fields is a
person's; a row without a meaning fails the check. Of rules all comes from the code: what they are from the first
sentence of their file, what their keys mean from the text of their record.
"""

import argparse
import importlib
import importlib.metadata
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

import msgspec
import typer

from aggregator.core.registry import Rule, kind_of, registry_of

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
BLOCK = re.compile(r"(<!-- (keys|fields|rules|options) (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null", object: "anything"}


def type_words(type_: Any) -> str:
    """A Python type in a reader's words."""
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return type_words(arguments[0]) + limits_words(arguments[1:])
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {type_words(arguments[0])}"
    if origin is dict:
        return f"table of {type_words(arguments[1])}"
    if registry := registry_of(type_):
        return ", ".join(f"`{kind}`" for kind in registry.kinds)
    return WORDS.get(type_) or type_.__name__


def limits_words(annotations: tuple[Any, ...]) -> str:
    """Bounds of a number, where msgspec holds them."""
    found = [a for a in annotations if isinstance(a, msgspec.Meta) and a.ge is not None and a.le is not None]
    return f", {found[0].ge} to {found[0].le}" if found else ""


def default_words(field: msgspec.structs.FieldInfo) -> str:
    """The default of a key as it would stand in TOML."""
    value = field.default if field.default is not msgspec.NODEFAULT else None
    if field.required:
        return "required"
    if isinstance(value, Rule):
        return f'`"{kind_of(value)}"`'
    if isinstance(value, msgspec.Struct) or value is None:
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def structure(place: str) -> list[msgspec.structs.FieldInfo]:
    """The fields of `module:Struct`."""
    module, _, name = place.partition(":")
    return list(msgspec.structs.fields(getattr(importlib.import_module(module), name)))


def field_rows(kind: str, place: str, before: str) -> list[str]:
    """A table of keys or fields, with the meanings that stood there before."""
    meanings = {
        cells[1].strip().strip("`"): cells[-2].strip() for line in before.splitlines() if (cells := line.split("|"))[1:]
    }
    middle = ["type", "default"] if kind == "keys" else ["type"]
    name = "key" if kind == "keys" else "field"
    rows = [f"| {name} | {' | '.join(middle)} | meaning |", "|---" * (len(middle) + 2) + "|"]
    for field in structure(place):
        cells = [type_words(field.type)] + ([default_words(field)] if kind == "keys" else [])
        rows.append(f"| `{field.encode_name}` | {' | '.join(cells)} | {meanings.get(field.encode_name, '')} |")
    return rows


def key_words(field: msgspec.structs.FieldInfo) -> str:
    """A key of a rule with its default, and what else it may be where that is one of a few words."""
    choices = f" (one of {type_words(field.type)})" if typing.get_origin(field.type) is Literal else ""
    return f"`{field.encode_name}` {default_words(field)}{choices}"


def rule_rows(place: str) -> list[str]:
    """A table of the rules of one part."""
    module, _, name = place.partition(":")
    registry = getattr(importlib.import_module(module), name)
    rows = [f"| `{registry.tag_field}` | keys and defaults | what it is |", "|---|---|---|"]
    for kind, type_ in sorted(registry.types.items()):
        keys = ", ".join(key_words(f) for f in msgspec.structs.fields(type_)) or "none"
        title = (importlib.import_module(type_.__module__).__doc__ or "").split("\n\n")[0]
        text = " ".join(f"{title} {type_.__doc__ or ''}".split()).replace("|", "\\|")
        rows.append(f"| `{kind}` | {keys} | {text} |")
    return rows


def command_of(path: str) -> Any:
    """The command called `espalier PATH`."""
    first, *rest = path.split()
    (point,) = importlib.metadata.entry_points(group="espalier.commands", name=first)
    command: Any = typer.main.get_command(point.load())
    for name in rest:
        command = command.commands[name]
    return command


def option_rows(path: str) -> list[str]:
    """A table of a command's arguments and options."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    command = command_of(path)
    hints = typing.get_type_hints(command.callback)
    for parameter in command.params:
        named = parameter.param_type_name == "option"
        name = ", ".join(f"`{o}`" for o in parameter.opts) if named else f"`{parameter.name.upper()}`"
        if parameter.required:
            default = "required"
        elif parameter.is_flag if named else False:
            default = "off"
        else:
            default = "none" if parameter.default in (None, "") else f"`{parameter.default}`"
        type_ = hints.get(parameter.name)
        words = f" One of {type_words(type_)}." if typing.get_origin(type_) is Literal else ""
        rows.append(f"| {name} | {default} | {parameter.help or ''}{words} |")
    return rows


def filled(text: str) -> str:
    """A page with every table brought up to date."""

    def table(match: re.Match[str]) -> str:
        opening, kind, place, before, closing = match.groups()
        made = {"options": option_rows, "rules": rule_rows}
        rows = made[kind](place) if kind in made else field_rows(kind, place, before)
        return opening + "\n".join(rows) + "\n" + closing

    return BLOCK.sub(table, text)


def main() -> int:
    """Fill in or check every page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a page is out of date")
    check = parser.parse_args().check
    wrong = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        now = filled(text)
        if now != text:
            wrong.append(f"{page.relative_to(ROOT)} is out of date")
            if not check:
                page.write_text(now)
        wrong += [f"{page.relative_to(ROOT)}: no meaning in {line}" for line in now.splitlines() if "|  |" in line]
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong) if check else any("no meaning" in line for line in wrong))


if __name__ == "__main__":
    sys.exit(main())
