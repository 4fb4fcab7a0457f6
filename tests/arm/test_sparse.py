"""A round of engine sparse on an emulated board: the aarch64 wheel, made here, and the update of an x86-64 device."""

import logging
import subprocess
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from aggregator.demo.broker import Broker, start_broker
from tests.arm.board import CPUS, ROOT, Board
from tests.arm.federation import On
from tests.arm.test_round import SIDES, Round, run_round

pytestmark = [pytest.mark.arm, pytest.mark.e2e, pytest.mark.timeout(290)]
pytest.importorskip("espalier_kernels")

TOLERANCE = 1e-5
WHEEL_BYTES_MAX = 500_000
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The aarch64 wheel of the compiled operators."""
    folder = tmp_path_factory.mktemp("kernels")
    made = subprocess.run(
        [ROOT / "scripts" / "kernel-wheels", folder, "aarch64"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no aarch64 wheel can be made here: {made.stderr.strip().splitlines()[-1:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sparse_board(board: Board, kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """The board with the compiled operators, as `pip install espalier-fl[sparse]` gives it."""
    site = tmp_path_factory.mktemp("kernels-site")
    with ZipFile(kernels) as wheel:
        wheel.extractall(site)
    return Board(board.python, (site, *board.path), board.home)


def test_wheel_holds_one_small_library_for_any_python(kernels: Path) -> None:
    assert kernels.name.endswith("-py3-none-manylinux_2_28_aarch64.whl")
    assert kernels.stat().st_size <= WHEEL_BYTES_MAX
    with ZipFile(kernels) as wheel:
        assert [name for name in wheel.namelist() if name.endswith(".so")] == ["espalier_kernels/espalier_kernels.so"]


@pytest.fixture(scope="module", params=SIDES)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sparse_board: Board) -> Round:
    """The same device on this machine. Asks for a board only so that none is a skip."""
    folder = tmp_path_factory.mktemp("here")
    broker = start_broker("auto", folder / "broker")
    try:
        return run_round(folder / "round", broker.port, request.param, "sparse", None)
    finally:
        broker.stop()


@pytest.mark.parametrize("cpu", CPUS)
def test_update_of_an_arm_device_equals_that_of_an_x86_device(
    tmp_path: Path, sparse_board: Board, mosquitto: Broker, here: Round, cpu: str
) -> None:
    arm = run_round(tmp_path / "arm", mosquitto.port, here.model, "sparse", On(sparse_board, cpu))
    assert arm.verdict == "accepted"
    assert (arm.measurement.engine, here.measurement.engine) == ("sparse", "sparse")
    assert arm.update.keys() == here.update.keys()
    difference = max(float(np.abs(arm.update[n] - here.update[n]).max()) for n in here.update)
    largest = max(float(np.abs(values).max()) for values in here.update.values())
    log.info("%s on %s: largest change %.3g, largest difference %.3g", here.model, cpu, largest, difference)
    assert largest > 1000 * TOLERANCE, "the round changed the model, or equality would mean nothing"
    assert difference <= TOLERANCE * max(1.0, largest)
    assert arm.measurement.flops_executed == here.measurement.flops_executed
