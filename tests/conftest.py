"""What every test shares: the root on the path, so that helpers are imported as `tests.…`, their order, a broker."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aggregator.demo.broker import Broker

sys.path.insert(0, str(Path(__file__).parents[1]))


# What fails fast runs first: style and pure parts, then brokers and engines, then whole federations, then emulation.
_ORDER = [
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
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, in the order of folders above; within a folder as written."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)


@pytest.fixture
def mosquitto(tmp_path: Path) -> "Iterator[Broker]":
    """A Mosquitto on the loopback."""
    from aggregator.demo.broker import find_binary, start_broker  # not every environment of the tests has what it needs

    if find_binary("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    started = start_broker("mosquitto", tmp_path / "broker")
    yield started
    started.stop()
