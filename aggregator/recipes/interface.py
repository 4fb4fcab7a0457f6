"""What a recipe is: a method by name, as defaults for the tables of the settings file.

What a person writes in a table comes before the recipe's word, so that one rule can be changed and the others stay.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from aggregator.core.composed import Parts, compose
from aggregator.core.method import Facts, Method
from aggregator.core.registry import Registry

Tables = Mapping[str, msgspec.Struct | Mapping[str, object]]
"""By table of the settings file, a rule, or the keys that the recipe sets."""


@runtime_checkable
class Recipe(Protocol):
    """A published method."""

    def tables(self) -> Tables:
        """What the recipe sets; of a key that is not there, the settings' own default holds."""

    def method(self, parts: Parts, facts: Facts, *, round_count: int, seed: int) -> Method:
        """The method of a run, given the rules as they stand when the settings file was read over the recipe."""


class RecipeRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="recipe"):
    """A recipe composed of rules, which most are; one that is not overrides `method`."""

    def method(self, parts: Parts, facts: Facts, *, round_count: int, seed: int) -> Method:
        """The composition of the rules."""
        return compose(parts, facts, round_count=round_count, seed=seed)


RECIPES: Registry[Recipe] = Registry("recipe", Recipe)
