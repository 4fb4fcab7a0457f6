"""`espalier boards`: lists, detects in a captured tree, and measures this machine."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from device_runtime.boards.command import app
from device_runtime.boards.self_benchmark import parse_cpus
from device_runtime.boards.tiny_graphs import conv_graph, matmul_graph
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from firmware_profiles.measured import MEASURED_FILE, MeasuredBoard
from tests.unit.firmware_profiles.trees import arm_tree

runner = CliRunner()


def test_the_list_shows_every_board_and_json_carries_sources() -> None:
    table = runner.invoke(app, [], env={"COLUMNS": "200"})
    assert table.exit_code == 0
    assert "rpi-zero2w" in table.output
    boards = {b["id"]: b for b in json.loads(runner.invoke(app, ["--json"]).output)["boards"]}
    assert boards["rpi5"]["clusters"][0]["fp32_peak"]["source"] == "cpufp"


def test_detect_says_which_board_and_why(tmp_path: Path) -> None:
    arm_tree(tmp_path, "rk3588")
    told = runner.invoke(app, ["detect", "--root", str(tmp_path)])
    assert "rk3588" in told.output
    assert "because the device tree is compatible with 'rockchip,rk3588s'" in told.output
    record = json.loads(runner.invoke(app, ["detect", "--root", str(tmp_path), "--json"]).output)
    assert record["board"] == "rk3588"
    assert record["facts"]["midr"] == ["0x41:0xd05"] * 4 + ["0x41:0xd0b"] * 4


def test_measure_keeps_every_rate_in_the_folder(tmp_path: Path) -> None:
    done = runner.invoke(app, ["measure", "--seconds", "0.1", "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    record = msgspec.json.decode((tmp_path / MEASURED_FILE).read_bytes(), type=MeasuredBoard)
    assert {r.quantity for r in record.rates} == {
        f"{k}_{n}" for k in ("gemm", "conv", "copy", "add") for n in ("core", "all")
    }
    assert all(r.value > 0 and len(r.samples) == 5 and r.value == max(r.samples) for r in record.rates)


@pytest.mark.parametrize(("kernel", "side"), [(1, 4), (3, 6)])
def test_the_graphs_written_by_hand_compute_what_they_say(kernel: int, side: int) -> None:
    ort = import_onnxruntime()
    rng = np.random.default_rng(1)
    a, b = rng.random((5, 5), dtype=np.float32), rng.random((5, 5), dtype=np.float32)
    session = ort.InferenceSession(matmul_graph(5), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"a": a, "b": b})[0], a @ b, rtol=1e-5)

    x = rng.random((1, 2, side, side), dtype=np.float32)
    w = rng.random((2, 2, kernel, kernel), dtype=np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    session = ort.InferenceSession(conv_graph(2, side, kernel), providers=["CPUExecutionProvider"])
    expected = np.einsum("nchwij,ocij->nohw", windows, w)
    np.testing.assert_allclose(session.run(None, {"a": x, "b": w})[0], expected, rtol=1e-5)


def test_a_list_of_cpus_is_read_as_the_kernel_writes_it() -> None:
    assert parse_cpus("0-2,5") == {0, 1, 2, 5}
    assert parse_cpus("") == set()
