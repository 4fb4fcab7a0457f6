"""The system image and the wheels are made once per session; every test boots a card of its own."""

from pathlib import Path

import pytest

from aggregator.demo.broker import find_binary
from benchmarks.install_size import build_wheel
from tests.boot.machine import NoMachineError, make_system
from tests.e2e.harness import espalier


@pytest.fixture(scope="session")
def system() -> Path:
    """The image that a person would download, or a skip that says why there is none."""
    if find_binary("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    try:
        return make_system()
    except NoMachineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels for a board, with this checkout's own, gathered by the command that a person uses."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel = build_wheel(folder)
    done = espalier("flash", "wheelhouse", "--out", folder / "house", "--wheel", wheel, timeout_s=600)
    assert done.returncode == 0, done.stderr
    return folder / "house"
