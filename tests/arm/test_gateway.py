"""An aarch64 gateway does everything: builds, prunes, publishes, aggregates and evaluates, with stock onnxruntime."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from aggregator.demo.broker import Broker
from aggregator.results import RunResult
from aggregator.run_folder import read_result
from device_runtime.wire.support import FloatArray
from tests.arm.board import Board
from tests.arm.federation import DEVICE, ROUND_TIMEOUT_S, On, one_round, start_on, write_pictures
from tests.e2e.harness import fleet, params_bytes, processes_about

pytestmark = [pytest.mark.arm, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(290)]


def _run(folder: Path, port: int, gateway: On | None) -> tuple[dict[str, FloatArray], RunResult]:
    """Final parameters and result of one round with the aggregator on a board, or here, and a device here."""
    folder.mkdir()
    options = one_round(write_pictures(folder / "pictures.npz"), "portable")
    with fleet(options, folder / "run", port, rounds={"deadline_s": ROUND_TIMEOUT_S}) as run:
        start_on(gateway, run, "aggregator")
        run.start(DEVICE)
        run.finish(ROUND_TIMEOUT_S)
        assert run.accepted() == [(1, DEVICE)]
        assert processes_about(folder) == []
        return safetensors.numpy.load(params_bytes(run.folder)), read_result(run.folder)


def test_gateway_has_neither_torch_nor_the_training_wheel(gateway: Board) -> None:
    installed = {p.name.split("-")[0] for folder in gateway.path for p in folder.glob("*.dist-info")}
    assert {"onnx", "onnxruntime"} <= installed
    assert not installed & {"torch", "onnxruntime_training_cpu"}


def test_aggregator_on_a_board_ends_a_round_with_the_model_that_it_has_here(
    tmp_path: Path, gateway: Board, mosquitto: Broker
) -> None:
    params, result = _run(tmp_path / "board", mosquitto.port, On(gateway, "cortex-a72"))
    expected, other = _run(tmp_path / "here", mosquitto.port, None)
    assert params.keys() == expected.keys()
    for name, values in expected.items():
        assert np.abs(params[name] - values).max() <= 1e-6, name
    (mine,), (its,) = result.rounds, other.rounds
    assert mine.accuracy_sparse is not None
    assert (mine.accuracy_sparse, mine.accuracy_dense) == (its.accuracy_sparse, its.accuracy_dense)
    assert mine.loss_sparse == pytest.approx(its.loss_sparse, abs=1e-5)
    assert msgspec.structs.asdict(mine)["bytes_up"] == its.bytes_up > 0
    assert result.totals.updates_accepted == 1
