"""Run folders and sparse models to deploy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import ModelProto, numpy_helper

from device_runtime.wire.manifest import InputSpec, Manifest, encode_manifest
from device_runtime.wire.submodel import encode_supports
from device_runtime.wire.support import Support
from export.forward.model import ForwardModel
from export.forward.values import forward_with
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer


def pruned(model: ForwardModel, share: float, seed: int = 0) -> ForwardModel:
    """A copy with a random share of its prunable weights zero, and norms and biases away from their start."""
    rng = np.random.default_rng(seed)
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    table = {p.name: p for p in model.parameters}
    for tensor in copy.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if table[tensor.name].prunable:
            # Those that stay grow, or the signal would drown in the biases and no test would see it lost.
            value = (value / np.sqrt(1 - share)).astype(np.float32)
            value[rng.random(value.shape) < share] = 0.0
        elif table[tensor.name].role in ("norm", "statistic"):
            value = (value + 0.5 * rng.random(value.shape)).astype(np.float32)
        else:
            value = rng.standard_normal(value.shape).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return ForwardModel(copy)


SPEC = InputSpec(shape=(1, 8, 8), axes=(0, 1, 2), scale=0.5, mean=(1.0,), std=(2.0,))


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """run_folder(rounds=(3,)): a run as the aggregator leaves it, of an mlp whose sparse half is zero."""

    def make(rounds: tuple[int, ...] = (3,)) -> Path:
        run = tmp_path / "run"
        for index in rounds:
            folder = run / "models" / str(index)
            folder.mkdir(parents=True)
            model = build_model("mlp", (1, 8, 8), 4, seed=index)
            params = dict(model.initial)
            rng = np.random.default_rng(index)
            supports = {
                name: Support.from_mask(rng.random(value.shape) < 0.5)
                for name, value in params.items()
                if value.ndim == 2
            }
            sparse = {n: v * supports[n].dense_mask() if n in supports else v for n, v in params.items()}
            onnx.save(forward_with(model, sparse).proto, folder / "forward.onnx")
            (folder / "params.safetensors").write_bytes(safetensors.numpy.save(params))
            (folder / "supports").write_bytes(encode_supports(supports))
            (folder / "manifest.json").write_bytes(encode_manifest(_manifest(model)))
        x = rng.integers(0, 16, (40, 8, 8)).astype(np.uint8)
        np.savez(run / "held_out.npz", x_test=x, y_test=rng.integers(0, 4, 40))
        return run

    return make


def _manifest(model: ForwardModel) -> Manifest:
    return Manifest(
        model="mlp",
        engine="ort_training",
        input=SPEC,
        class_count=4,
        loss="cross_entropy",
        optimizer=choose_optimizer("sgd"),
        parameters=model.parameters,
        costs=model.costs,
        files=(),
        opset=17,
        ir_version=8,
    )
