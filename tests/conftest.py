"""What every test shares: the root on the path, so that helpers are imported as `tests.…`, and the order of tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


# What fails fast runs first: style and pure parts, then brokers and engines, then whole federations, then emulation.
_ORDER = (
    "tidy",
    "unit",
    "property",
    "golden",
    "hostile",
    "transcripts",
    "sim",
    "contract",
    "oracle",
    "e2e",
    "arm",
    "boot",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, in the order of folders above; within a folder as written."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)
