"""Brokers for the contract tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.demo.broker import Broker, find_binary, start_broker


@pytest.fixture(params=["nats", "mosquitto"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each kind of broker that is installed."""
    if find_binary(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    started = start_broker(request.param, tmp_path / "broker")
    yield started
    started.stop()
