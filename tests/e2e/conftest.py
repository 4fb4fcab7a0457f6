"""Brokers for the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.demo.broker import Broker, find_binary, start_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker on the loopback, whichever is installed."""
    started = start_broker("auto", tmp_path / "broker")
    yield started
    started.stop()


@pytest.fixture(params=["nats", "mosquitto"])
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of broker that is installed."""
    if find_binary(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)
