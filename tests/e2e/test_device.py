"""A device that meets a bug of ours ends, for its supervisor to start it again; it never falls silent."""

import threading
from pathlib import Path

import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options
from device_runtime.config import load_device_settings
from device_runtime.link import over_mqtt
from device_runtime.runner import Device
from device_runtime.workshop import Workshop
from tests.e2e.harness import fleet

pytestmark = pytest.mark.e2e


def test_bug_while_training_ends_the_process(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Workshop, "_work", work)
    options = Options(rounds=1, devices=1, noise="none")
    with fleet(options, tmp_path / "run", broker.port) as run:
        run.start("aggregator")
        settings = load_device_settings(run.folder / "devices" / "device-01" / "device.toml")
        device = Device(settings, over_mqtt(settings.link))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            device.run(threading.Event())
