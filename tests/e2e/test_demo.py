"""`espalier demo` promises: a finished run over either broker, a whole result, few bytes, same seed same bits."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.demo.broker import find_binary
from aggregator.demo.plan import Options, make_plan
from device_runtime.engines import available_engines
from tests.e2e.harness import (
    ENVIRONMENT,
    command,
    espalier,
    params_bytes,
    processes_about,
    undisturbed_bytes,
    wait_until,
)

pytestmark = pytest.mark.e2e

SMALL = Options(rounds=3, devices=3, seed=1)
SLOW_EPOCHS = 150


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small run over each broker that is installed."""
    done = {}
    for kind in ("nats", "mosquitto"):
        if find_binary(kind) is not None:
            folder = tmp_path_factory.mktemp("demo") / kind
            ended = espalier("demo", "--rounds", "3", "--devices", "3", "--broker", kind, "--out", folder)
            assert ended.returncode == 0, ended.stderr
            done[kind] = folder
    return done


@pytest.fixture
def run(runs: dict[str, Path], broker_kind: str) -> Path:
    """The run over one broker."""
    return runs[broker_kind]


def _result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def test_result_holds_every_promised_field(run: Path) -> None:
    result = _result(run)
    round_fields = {"round_index", "accuracy_dense", "accuracy_sparse", "bytes_up", "bytes_down", "wall_s"}
    device_fields = {
        "name", "weight", "contribution", "sparsity", "noisy", "samples", "step_ms_p50", "rss_mb_peak",
        "flops_dense", "flops_ideal", "flops_executed", "engine",
    }  # fmt: skip
    total_fields = {
        "bytes_up", "bytes_down", "bytes_up_dense_fp32", "flops_dense", "flops_ideal", "flops_executed", "wall_s",
    }  # fmt: skip
    assert [r["round_index"] for r in result["rounds"]] == [1, 2, 3]
    assert all(round_fields <= r.keys() and None not in (r[f] for f in round_fields) for r in result["rounds"])
    assert {"accuracy_dense", "accuracy_sparse"} <= result["final"].keys()
    assert [d["name"] for d in result["devices"]] == ["device-01", "device-02", "device-03"]
    assert all(device_fields <= d.keys() and None not in (d[f] for f in device_fields) for d in result["devices"])
    assert [d["noisy"] for d in result["devices"]] == [False, True, False]
    assert total_fields <= result["totals"].keys()
    assert result["settings"]["run"]["seed"] == 1
    assert {"espalier-fl", "python", "numpy"} <= result["versions"].keys()


def test_totals_are_the_sums_of_their_parts(run: Path) -> None:
    result = _result(run)
    totals = result["totals"]
    parameters = 8 * 8 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert totals["bytes_up_dense_fp32"] == 4 * parameters * 3 * 3
    for name in ("bytes_up", "bytes_down"):
        assert totals[name] == sum(r[name] for r in result["rounds"])
    for name in ("flops_dense", "flops_ideal", "flops_executed"):
        assert totals[name] == sum(d[name] for d in result["devices"])
    assert totals["flops_ideal"] < 0.5 * totals["flops_dense"] < totals["flops_executed"]


def test_run_folder_is_whole(run: Path) -> None:
    for name in ("settings.json", "result.json", "report.html", "ledger.sqlite"):
        assert (run / name).is_file(), name
    for name in ("forward.onnx", "params.safetensors", "supports", "manifest.json"):
        assert (run / "models" / "3" / name).is_file(), name


def test_nothing_is_left_running(run: Path) -> None:
    assert processes_about(run) == []


def test_same_seed_gives_same_bits_over_either_broker_and_without_one(runs: dict[str, Path], tmp_path: Path) -> None:
    plan = make_plan(SMALL, tmp_path / "plan")
    expected = undisturbed_bytes(SMALL, plan, tmp_path / "in-process")
    assert {kind: params_bytes(folder) == expected for kind, folder in runs.items()} == dict.fromkeys(runs, True)


def test_default_run_learns_and_uploads_at_most_15_percent_of_dense_fp32(tmp_path: Path) -> None:
    ended = espalier("demo", "--out", tmp_path / "run", "--json", timeout_s=120)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert len(result["rounds"]) == 15
    assert len(result["devices"]) == 5
    assert result["totals"]["bytes_up"] <= 0.15 * result["totals"]["bytes_up_dense_fp32"]
    assert result["final"]["accuracy_sparse"] > 0.85
    weights = {d["name"]: d["weight"] for d in result["devices"]}
    assert min(weights, key=lambda n: weights[n]) == "device-02", "the noisy device weighs least"
    assert processes_about(tmp_path) == []


def test_proximal_term_and_clipping_are_trained_by_portable_with_the_bits_of_a_run_without_broker(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ended = espalier(
        "demo", "--rounds", "3", "--devices", "3", "--proximal-mu", "0.1", "--clip-norm", "2", "--out", folder
    )
    assert ended.returncode == 0, ended.stderr
    assert {d["engine"] for d in _result(folder)["devices"]} == {"portable"}
    options = msgspec.structs.replace(SMALL, tables={"training": {"proximal_mu": 0.1, "clip_norm": 2.0}})
    plan = make_plan(options, tmp_path / "plan")
    assert params_bytes(folder) == undisturbed_bytes(options, plan, tmp_path / "in-process")
    assert params_bytes(folder) not in [params_bytes(other) for other in runs.values()]


@pytest.mark.skipif("sparse" not in available_engines(), reason="needs the compiled operators")
def test_all_engines_train_in_one_federation_and_the_sparse_one_executes_what_is_kept(tmp_path: Path) -> None:
    engines = available_engines()
    folders = [tmp_path / "first", tmp_path / "again"]
    for folder in folders:
        ended = espalier("demo", "--rounds", "3", "--devices", "3", "--engine", ",".join(engines), "--out", folder)
        assert ended.returncode == 0, ended.stderr
    devices = {d["engine"]: d for d in _result(folders[0])["devices"]}
    assert set(devices) == set(engines)
    assert devices["sparse"]["flops_executed"] == pytest.approx(devices["sparse"]["flops_ideal"], rel=1e-4)
    assert params_bytes(folders[0]) == params_bytes(folders[1])


@pytest.mark.skipif("ort_training" not in available_engines(), reason="needs the training wheel")
def test_an_engine_without_a_proximal_term_is_refused_in_words(tmp_path: Path) -> None:
    ended = espalier("demo", "--engine", "ort_training", "--proximal-mu", "0.1", "--out", tmp_path / "run")
    assert ended.returncode != 0
    assert "applies no proximal_mu 0.1: train with engine portable" in " ".join(ended.stderr.split())
    assert processes_about(tmp_path) == []


def _start_slow_demo(folder: Path) -> subprocess.Popen[str]:
    line = command(
        "demo", "--rounds", "3", "--devices", "3", "--local-epochs", str(SLOW_EPOCHS), "--out", str(folder)
    )  # fmt: skip
    return subprocess.Popen(
        line, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def _trained_once(folder: Path) -> bool:
    logs = list((folder / "logs").glob("device-*.log"))
    return len(logs) == 3 and all("accepted" in path.read_text() for path in logs)


def test_killed_device_is_restarted_and_the_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    demo = _start_slow_demo(folder)
    try:
        wait_until(lambda: _trained_once(folder), 40, "round 1")
        pid = json.loads((folder / "processes.json").read_text())["device-02"]
        os.kill(pid, signal.SIGKILL)
        stdout, stderr = demo.communicate(timeout=60)
        assert demo.returncode == 0, stderr
    finally:
        demo.kill()
        demo.wait()
    assert json.loads((folder / "processes.json").read_text())["device-02"] != pid
    assert "device-02" in stdout, "the restart is told"
    options = Options(rounds=3, devices=3, seed=1, tables={"training": {"local_epochs": SLOW_EPOCHS}})
    plan = make_plan(options, tmp_path / "plan")
    assert params_bytes(folder) == undisturbed_bytes(options, plan, tmp_path / "in-process")
    assert processes_about(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("moment", ["starting", "training"])
def test_interrupted_demo_leaves_nothing_running(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    folder = tmp_path / "run"
    demo = _start_slow_demo(folder)
    try:
        if moment == "starting":
            wait_until(lambda: list((folder / "logs").glob("device-*.log")), 30, "a device process")
        else:
            wait_until(lambda: _trained_once(folder), 40, "round 1")
        demo.send_signal(number)
        _, stderr = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode != 0
    assert "Traceback" not in stderr
    assert processes_about(tmp_path) == []
