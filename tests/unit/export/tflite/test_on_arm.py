"""TFLite files compute on an emulated Raspberry Pi what they compute here: int8 the same bytes, fp32 nearly."""

import json
from pathlib import Path

import numpy as np
import pytest

from export.deploy.deployment import Request, deploy_tflite
from export.deploy.samples import DataFile
from export.deploy.source import open_source
from tests.arm.board import Board, NoBoardError, install, make_root

pytestmark = [pytest.mark.arm, pytest.mark.timeout(290)]

OUTSIDE = Path(__file__).parents[1] / "deploy" / "outside"
_RUN = """
import json, platform, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
found = {"machine": platform.machine()}
for path in sys.argv[1:]:
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for sample in np.load(path + ".npy"):
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result["index"])[0].ravel().tolist())
    found[path] = rows
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board with LiteRT and numpy, no more."""
    pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-int8 is not installed")
    try:
        root = make_root()
    except NoBoardError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("board")
    install(home / "site", "--no-deps", "ai-edge-litert==2.3.0", "numpy")
    return Board(root / "python", (home / "site",), home)


def here(paths: list[Path]) -> dict[str, list[list[float]]]:
    """What the same program computes on this machine."""
    from ai_edge_litert.interpreter import Interpreter

    found = {}
    for path in paths:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for sample in np.load(f"{path}.npy"):
            interpreter.set_tensor(given["index"], sample[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(result["index"])[0].ravel().tolist())
        found[str(path)] = rows
    return found


def test_outside_models_compute_the_same_on_a_board(board: Board, tmp_path: Path) -> None:
    paths = []
    for model in sorted(OUTSIDE.glob("*.onnx")):
        source = open_source(str(model))
        x = np.random.default_rng(0).standard_normal((32, *source.input_shape)).astype(np.float32)
        np.savez(tmp_path / "d.npz", x=x)
        for int8 in (False, True):
            out = tmp_path / f"{model.stem}-{int8}.tflite"
            deploy_tflite(Request(source, out, int8, DataFile(tmp_path / "d.npz"), seconds=0))
            samples = np.ascontiguousarray(np.moveaxis(x[:4], 1, -1))
            np.save(f"{out}.npy", np.clip(np.round(samples * 30), -128, 127).astype(np.int8) if int8 else samples)
            paths.append(out)
    done = board.run("cortex-a72", "-c", _RUN, *paths)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    assert there.pop("machine") == "aarch64"
    for path, rows in here(paths).items():
        expected, found = np.array(rows), np.array(there[path])
        tolerance = 0 if "True" in path else 1e-5 * np.abs(expected).max()
        assert np.abs(found - expected).max() <= tolerance, path
