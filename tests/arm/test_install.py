"""What is installed on an aarch64 board starts there, and brings nothing that a board does not need."""

import json
from pathlib import Path

import pytest

from scripts.pip_for_arm import ENVIRONMENT
from tests.arm.board import CPUS, Board

pytestmark = [pytest.mark.arm, pytest.mark.timeout(290)]

_IMPORT_ALL = """
import device_runtime, importlib, json, pkgutil, sys
names = [m.name for m in pkgutil.walk_packages(device_runtime.__path__, "device_runtime.") if "__main__" not in m.name]
for name in names:
    importlib.import_module(name)
print(json.dumps({"names": names, "heavy": sorted({"torch", "onnx", "onnxruntime.training"} & set(sys.modules))}))
"""
_MARKERS = """
import json, os, platform, sys
print(json.dumps({
    "implementation_name": sys.implementation.name, "os_name": os.name, "platform_machine": platform.machine(),
    "platform_python_implementation": platform.python_implementation(), "platform_system": platform.system(),
    "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
}))
"""
# y = relu(x @ w + b) with w = [[1, -1], [2, 0.5]], b = [0.5, -1]: one matrix product and one activation.
_INFER = """
import sys
import numpy as np
from device_runtime.engines.onnxruntime_import import import_onnxruntime
ort = import_onnxruntime()
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(ort.__version__, session.run(None, {"x": np.array([[1, 2], [-3, 4]], np.float32)})[0].tolist())
"""


def test_dependencies_are_chosen_for_the_board_they_run_on(board: Board) -> None:
    done = board.run("cortex-a72", "-c", _MARKERS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {name: ENVIRONMENT[name] for name in found}


def test_help_is_printed(board: Board) -> None:
    done = board.run("cortex-a53", "-m", "device_runtime", "--help")
    assert done.returncode == 0, done.stderr
    assert "Run the device runtime on this board." in done.stdout
    assert "pip install 'espalier-fl[aggregator]'" in done.stdout, "what the other commands need is told"
    assert done.stderr == ""


def test_what_is_not_installed_is_told_in_one_sentence(board: Board, tmp_path: Path) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text("")
    for command in (("demo", "--rounds", "1"), ("aggregator", "run", "--config", str(config))):
        done = board.run("cortex-a76", "-m", "device_runtime", *command)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert f"'espalier {command[0]}' needs onnx" in done.stderr
        assert f"pip install 'espalier-fl[{command[0]}]'" in done.stderr


def test_every_module_of_the_device_imports_without_torch_and_onnx(board: Board) -> None:
    done = board.run("cortex-a53", "-c", _IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "device_runtime.engines.portable" in found["names"]
    assert found["heavy"] == []
    installed = {p.name.split("-")[0] for folder in board.path for p in folder.glob("*.dist-info")}
    assert "onnxruntime" in installed
    assert not installed & {"torch", "onnx", "onnxruntime_training_cpu", "matplotlib"}


@pytest.mark.parametrize("cpu", CPUS)
def test_stock_onnxruntime_infers(board: Board, tmp_path: Path, cpu: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 2] x) => (float[n, 2] y)'
        "<float[2, 2] w = {1, -1, 2, 0.5}, float[2] b = {0.5, -1}> { p = MatMul(x, w)  s = Add(p, b)  y = Relu(s) }"
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    done = board.run(cpu, "-c", _INFER, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{board.version_of('onnxruntime')} [[5.5, 0.0], [5.5, 4.0]]"
