"""What a person gets wrong is told in one sentence, with a failure status; nothing runs on, nothing half-made stays."""

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aggregator.demo.broker import Broker, find_binary, free_port, start_broker
from aggregator.demo.plan import Options
from device_runtime.wire.errors import UsageError
from tests.e2e.harness import espalier, fleet, processes_about

pytestmark = pytest.mark.e2e

SMALL = Options(rounds=1, devices=2, noise="none", seed=3)


def _one_sentence(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 2, f"status {ended.returncode}: {ended.stderr}"
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("espalier: ")
    return lines[0]


def _data(path: Path, **changed: np.ndarray) -> Path:
    draws = np.random.default_rng(0)
    arrays = {
        "x_train": draws.integers(0, 255, (400, 8, 8), dtype=np.uint8),
        "y_train": np.arange(400) % 10,
        "x_test": draws.integers(0, 255, (50, 8, 8), dtype=np.uint8),
        "y_test": np.arange(50) % 10,
    }
    np.savez(path, **(arrays | changed))
    return path


_FIVE_AXES = {"x_train": np.zeros((400, 2, 2, 2, 2), np.uint8), "x_test": np.zeros((50, 2, 2, 2, 2), np.uint8)}

DEMO_CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "x and y of different lengths": (
        lambda tmp: ["--data", str(_data(tmp / "d.npz", y_train=np.arange(399) % 10))], "same number of samples",
    ),
    "test samples of another shape": (
        lambda tmp: ["--data", str(_data(tmp / "d.npz", x_test=np.zeros((50, 9, 9), np.uint8)))], "(9, 9)",
    ),
    "test data of another kind": (
        lambda tmp: ["--data", str(_data(tmp / "d.npz", y_test=np.linspace(0, 1, 50)))], "y_test",
    ),
    "samples of five axes": (
        lambda tmp: ["--data", str(_data(tmp / "d.npz", **_FIVE_AXES))], "4 axes",
    ),
    "values that are not finite": (
        lambda tmp: ["--data", str(_data(tmp / "d.npz", x_train=np.full((400, 8, 8), np.nan)))], "not finite",
    ),
    "missing file": (lambda tmp: ["--data", str(tmp / "nothing.npz")], "does not exist"),
    "file that is no archive": (
        lambda tmp: ["--data", str(shutil.copy(__file__, tmp / "text.npz"))], "cannot be read",
    ),
    "sparsity of one": (lambda _: ["--sparsity", "1.0"], "sparsity"),
    "negative sparsity": (lambda _: ["--sparsity", "-0.1"], "sparsity"),
    "no rounds": (lambda _: ["--rounds", "0"], "count is 0"),
    "no devices": (lambda _: ["--devices", "0"], "--devices is 0"),
    "more devices than samples": (lambda _: ["--devices", "2000"], "1438 training samples cannot give 2000"),
    "unknown model": (lambda _: ["--model", "mpl"], "no model 'mpl'"),
    "model too big for its input": (lambda _: ["--model", "lenet5"], "the smallest that fits is 1x"),
    "unknown partition": (lambda _: ["--partition", "sorted"], "partition 'sorted'"),
    "noise of no device": (lambda _: ["--noise", "pair:0.4@9"], "outside 1 to 5"),
    "unknown comparison": (lambda _: ["--compare", "fedprox"], "fedprox"),
    "unknown engine": (lambda _: ["--engine", "warp"], "warp"),
    "broker that does not answer": (lambda _: ["--broker", f"127.0.0.1:{free_port()}"], "no broker answers"),
    "broker that cannot be": (lambda _: ["--broker", "rabbit"], "--broker 'rabbit'"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), DEMO_CASES.values(), ids=DEMO_CASES.keys())
def test_demo_says_what_is_wrong(tmp_path: Path, arguments: Callable[[Path], list[str]], words: str) -> None:
    ended = espalier("demo", "--out", tmp_path / "run", *arguments(tmp_path))
    assert words in _one_sentence(ended)
    assert not (tmp_path / "run").exists()
    assert processes_about(tmp_path) == []


def test_demo_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "no earlier demo run" in _one_sentence(espalier("demo", "--out", tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_demo_that_fails_leaves_the_earlier_run_alone(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    _one_sentence(espalier("demo", "--out", tmp_path, "--broker", f"127.0.0.1:{free_port()}"))
    assert (tmp_path / "result.json").exists()


@pytest.mark.parametrize("kind", ["nats", "mosquitto"])
def test_taken_port_is_told_before_a_broker_is_started(tmp_path: Path, kind: str) -> None:
    if find_binary(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="is taken"):
        start_broker(kind, tmp_path / "broker", port=taken.getsockname()[1])
    assert processes_about(tmp_path) == []


def _replaced(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


AGGREGATOR_CASES = {
    "unknown key": ("[rounds]\ncount", "[rounds]\ncuont", "did you mean 'count'"),
    "unknown section": ("[rounds]", "[round]", "did you mean 'rounds'"),
    "wrong type": ("count = 1", 'count = "one"', "[rounds.count]"),
    "no TOML": ("[rounds]", "[rounds", "not valid TOML"),
    "held-out data that is not there": ("held_out.npz", "elsewhere.npz", "does not exist"),
    "sparsity of one": ("sparsity = 0.8", "sparsity = 1.0", "sparsity"),
    "unknown model": ('name = "mlp"', 'name = "mpl"', "no model 'mpl'"),
    "model too big for its input": ('name = "mlp"', 'name = "lenet5"', "the smallest that fits is 1x"),
    "fewer classes than labels": ("classes = 10", "classes = 9", "[0, 9)"),
    "ca that is not there": ('ca = ""', 'ca = "/nowhere/ca.crt"', "/nowhere/ca.crt"),
    "port that cannot be": ("port = ", "port = 7777777 #", "[link.port]"),
}


@pytest.mark.parametrize(("old", "new", "words"), AGGREGATOR_CASES.values(), ids=AGGREGATOR_CASES.keys())
def test_aggregator_says_what_is_wrong(tmp_path: Path, old: str, new: str, words: str) -> None:
    with fleet(SMALL, tmp_path / "run", free_port(), link={"connect_timeout_s": 0.1}) as run:
        before = sorted(p.name for p in run.folder.iterdir())
        config = _replaced(run.folder / "aggregator.toml", old, new)
        assert words in _one_sentence(espalier("aggregator", "run", "--config", config))
        assert sorted(p.name for p in run.folder.iterdir()) == before


def test_run_that_never_reached_its_broker_may_be_begun_with_other_settings(tmp_path: Path, broker: Broker) -> None:
    with fleet(SMALL, tmp_path / "run", broker.port, link={"connect_timeout_s": 0.5}) as run:
        config = _replaced(run.folder / "aggregator.toml", f"port = {broker.port}", "port = 1")
        assert "no broker answers at 127.0.0.1:1" in _one_sentence(espalier("aggregator", "run", "--config", config))
        _replaced(_replaced(config, "port = 1", f"port = {broker.port}"), "seed = 3", "seed = 4")
        run.start_all()
        run.finish()
        config = _replaced(config, "seed = 4", "seed = 5")
        assert "was begun with run.seed = 4, not 5" in _one_sentence(espalier("aggregator", "run", "--config", config))


def test_model_without_a_prunable_weight_is_refused(tmp_path: Path) -> None:
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [10], [0.0] * 10)
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "bias"], ["output"])],
        "shift",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 10])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])],
        [bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "shift.onnx")
    (tmp_path / "run.toml").write_text(
        f'[run]\nfolder = "{tmp_path}/run"\n[input]\nshape = [10]\n[model]\nonnx = "{tmp_path}/shift.onnx"\n'
        "[link]\nallow_unsigned = true\nport = 1\nconnect_timeout_s = 0.1\n"
    )
    ended = espalier("aggregator", "run", "--config", tmp_path / "run.toml")
    assert "no prunable weight" in _one_sentence(ended)
    assert not (tmp_path / "run").exists()


DEVICE_CASES = {
    "unknown key": ("engine", "engin", "did you mean 'engine'"),
    "name that cannot be": ('name = "device-01"', 'name = "Device 1"', "name"),
    "missing data": ("data.npz", "nothing.npz", "does not exist"),
    "missing array": ('x = "x"', 'x = "images"', "no array 'images'"),
    "unknown engine": ('engine = "auto"', 'engine = "warp"', "no engine 'warp'"),
    "password file that is not there": (
        'username = ""\npassword_file = ""', 'username = "pi"\npassword_file = "/nowhere"', "/nowhere",
    ),
    "broker that does not answer": ("port = ", "port = 1 #", "no broker answers at 127.0.0.1:1"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), DEVICE_CASES.values(), ids=DEVICE_CASES.keys())
def test_device_says_what_is_wrong(tmp_path: Path, old: str, new: str, words: str) -> None:
    with fleet(SMALL, tmp_path / "run", free_port(), link={"connect_timeout_s": 0.1}) as run:
        config = _replaced(run.folder / "devices" / "device-01" / "device.toml", old, new)
        assert words in _one_sentence(espalier("device", "run", "--config", config))


def test_missing_settings_file_is_told() -> None:
    for command in ("aggregator", "device"):
        ended = espalier(command, "run", "--config", "/nowhere/settings.toml")
        assert "/nowhere/settings.toml" in _one_sentence(ended)


def test_refusal_of_a_device_with_impossible_labels_reaches_the_aggregator(tmp_path: Path, broker: Broker) -> None:
    with fleet(SMALL, tmp_path / "run", broker.port, rounds={"quorum": 1}) as run:
        path = run.folder / "devices" / "device-02" / "data.npz"
        with np.load(path) as data:
            x, y = data["x"], data["y"]
        np.savez(path, x=x, y=y + 1)
        run.start_all()
        refusal = run.wait_for("refused", device="device-02")
        assert "labels must be one class number in [0, 10)" in refusal["reason"]
        run.finish()
        assert run.accepted() == [(1, "device-01")]


def test_stopped_aggregator_goes_on_from_the_last_committed_round(tmp_path: Path, broker: Broker) -> None:
    with fleet(SMALL, tmp_path / "run", broker.port) as run:
        run.start("aggregator")
        run.wait_for("started")
        assert run.end("aggregator", SIGTERM) == 130
        assert "Traceback" not in run.log("aggregator")
        run.start_all()
        run.finish()
