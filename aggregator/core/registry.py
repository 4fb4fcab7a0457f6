"""The rules of one part of a method, by kind: each a record that is its own table of the settings file.

    WEIGHTINGS: Registry[Weighting] = Registry("weighting", Weighting)

    @WEIGHTINGS.rule
    class Uniform(Rule, frozen=True, tag="uniform"):
        ...

    [weighting]          # or, of a rule without settings of its own, weighting = "uniform" in the table around it
    kind = "uniform"

Help texts, the pages of settings and the error that lists what exists are made from the registry, so that a new rule is
one file and one line that imports it.
"""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from device_runtime.wire.settings import place

P = TypeVar("P")
R = TypeVar("R", bound="type[msgspec.Struct]")

_BY_PROTOCOL: dict[type, "Registry[Any]"] = {}


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A rule: its kind, which is its tag, and what can be chosen of it. A bad choice raises ValueError."""


class Registry(Generic[P]):
    """The rules of the part `part`, all of which have the methods of `protocol`."""

    def __init__(self, part: str, protocol: type[Any]) -> None:
        self.part = part
        self._types: dict[str, type[msgspec.Struct]] = {}
        _BY_PROTOCOL[protocol] = self

    def rule(self, type_: R) -> R:
        """Register a record type under its tag; a later one of the same tag replaces it."""
        self._types[str(type_.__struct_config__.tag)] = type_
        return type_

    @property
    def kinds(self) -> tuple[str, ...]:
        """The tags of all rules, in alphabetical order."""
        return tuple(sorted(self._types))

    @property
    def types(self) -> Mapping[str, type[msgspec.Struct]]:
        """The record types by tag."""
        return dict(self._types)

    @property
    def tag_field(self) -> str:
        """The key of a table that names the rule."""
        return str(next(iter(self._types.values())).__struct_config__.tag_field)

    def read(self, table: object) -> P:
        """The rule of a table `{kind = …, …}`, or of its kind alone.

        Raises ValueError saying what exists, or which of the table's values is wrong.
        """
        field = self.tag_field
        values = {field: table} if isinstance(table, str) else table
        if not isinstance(values, dict):
            raise ValueError(f"a table with {field} = one of {', '.join(self.kinds)} is needed, not {table!r}")
        kind = values.get(field)
        if not isinstance(kind, str) or kind not in self._types:
            said = f"{field} is {kind!r}" if field in values else f"{field} is missing"
            raise ValueError(f"{said}; use one of {', '.join(self.kinds)}")
        type_ = self._types[kind]
        if unknown := values.keys() - {field, *type_.__struct_fields__}:
            keys = ", ".join(type_.__struct_fields__) or "none but that"
            raise ValueError(f"unknown key '{min(unknown)}' of {field} {kind!r}; its keys: {keys}")
        try:
            rule: Any = msgspec.convert(values, type_, dec_hook=read_rule)
        except msgspec.ValidationError as error:
            # Where a record holds the rule, msgspec adds that place to a ValueError, but none to an error of its own.
            reason, path = place(str(error), type_)
            raise ValueError(f"{path}: {reason}" if path else reason) from error
        return cast(P, rule)


def registry_of(type_: object) -> "Registry[Any] | None":
    """The registry of the rules that stand where a record's field has this type; None where it is no part."""
    return _BY_PROTOCOL.get(type_) if isinstance(type_, type) else None


def read_rule(type_: type, table: object) -> object:
    """msgspec's `dec_hook` for records that hold rules."""
    registry = registry_of(type_)
    if registry is None:
        raise TypeError(f"{type_} is no part of a method")
    return registry.read(table)


def kind_of(rule: object) -> str:
    """The kind of a rule, by which a person calls it."""
    return str(type(rule).__struct_config__.tag)  # type: ignore[attr-defined]
