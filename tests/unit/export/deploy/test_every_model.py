"""Every zoo model, and five torch models from outside it (outside_models.py), go through every form."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.deploy.deployment import Request, deploy_onnx, deploy_tflite
from export.deploy.samples import DataFile
from export.deploy.source import open_source
from export.forward.model import ForwardModel
from export.models.zoo import build_model
from tests.unit.export.conftest import SMALL_MODELS
from tests.unit.export.deploy.conftest import pruned

pytest.importorskip("onnxruntime")

OUTSIDE = {path.stem: path for path in sorted((Path(__file__).parent / "outside").glob("*.onnx"))}
SHAPES = {"mlp": (1, 8, 8), "cnn1d": (6, 32), "resnet8": (3, 16, 16), "resnet20": (3, 16, 16)}


def saved(name: str, folder: Path) -> Path:
    """The file of a model; a zoo model is made, with a quarter of its weights pruned."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    model = build_model(name, SHAPES.get(name, (1, 20, 20)), 10, seed=1)
    onnx.save(pruned(model, 0.25).proto, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def smooth_samples(path: Path, folder: Path) -> DataFile:
    """Smooth samples: white noise has ranges that no trained network sees."""
    shape = ForwardModel(onnx.load(path)).inputs["input"]
    x = np.random.default_rng(0).standard_normal((96, *shape)).astype(np.float32)
    for axis in range(2, x.ndim):
        x = (x + np.roll(x, 1, axis) + np.roll(x, -1, axis)) / np.sqrt(3)
    np.savez(folder / "d.npz", x=x.astype(np.float32))
    return DataFile(folder / "d.npz")


def test_there_are_five_models_from_outside() -> None:
    assert set(OUTSIDE) == {"autoencoder", "conv_1d", "ds_cnn", "mobilenet", "resnet_group_norm"}


@pytest.mark.parametrize("name", [*SMALL_MODELS, *OUTSIDE])
@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_fp32_is_equal_and_int8_is_near(name: str, form: str, tmp_path: Path) -> None:
    if form == "tflite":
        pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-int8 is not installed")
    else:
        pytest.importorskip("onnxruntime.quantization")
    path = saved(name, tmp_path)
    data = smooth_samples(path, tmp_path)
    deploy = deploy_tflite if form == "tflite" else deploy_onnx
    for int8 in (False, True):
        report = deploy(Request(open_source(str(path)), tmp_path / f"{int8}.{form}", int8, data, seconds=0))
        found = report.verification
        assert (found.failures, found.b.dtype) == ((), "int8" if int8 else "fp32")
        assert found.max_relative <= (0.2 if int8 else 1e-5)
