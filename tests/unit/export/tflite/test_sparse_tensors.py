"""A pruned weight kept sparse is the same weight: the file is smaller, the outputs are the same to the bit."""

from pathlib import Path

import numpy as np
import pytest

from export.deploy.inference_graph import inference_graph
from export.deploy.inspection import inspect_file
from export.deploy.runners import TfliteRunner
from export.models.zoo import build_model
from tests.unit.export.deploy.conftest import pruned
from tests.unit.export.tflite.conftest import DESCRIBED

pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")

from export.tflite.flatbuffer import pack
from export.tflite.reading import read_metadata, read_model
from export.tflite.sparse_tensors import encode_sparse
from export.tflite.writer import write_tflite

SHAPES = {"mlp": (1, 20, 20), "lenet5": (1, 20, 20), "cnn1d": (6, 32), "resnet8": (3, 16, 16)}


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_are_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = pruned(build_model(name, SHAPES[name], 4, seed=1), 0.9)
    whole, packed = tmp_path / "whole.tflite", tmp_path / "packed.tflite"
    whole.write_bytes(write_tflite(inference_graph(model, cut=False).net, {"espalier": DESCRIBED}))
    packed.write_bytes(encode_sparse(whole.read_bytes()))
    assert packed.stat().st_size < whole.stat().st_size / 3
    x = np.random.default_rng(0).standard_normal((4, *SHAPES[name])).astype(np.float32)
    np.testing.assert_array_equal(TfliteRunner(whole, 1).run(x), TfliteRunner(packed, 1).run(x))
    a, b = inspect_file(whole), inspect_file(packed)
    assert (a.parameters, a.zeros, a.flops_dense, a.flops_ideal) == (
        b.parameters,
        b.zeros,
        b.flops_dense,
        b.flops_ideal,
    )
    assert read_metadata(packed.read_bytes()) == {"espalier": DESCRIBED}


def test_int8_convolutions_are_kept_sparse_too(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-int8 is not installed")
    from export.tflite.int8 import quantise_tflite

    net = inference_graph(pruned(build_model("cnn1d", (6, 32), 4, seed=1), 0.9), cut=False).net
    x = np.random.default_rng(0).standard_normal((16, 6, 32)).astype(np.float32)
    whole, packed = tmp_path / "whole.tflite", tmp_path / "packed.tflite"
    whole.write_bytes(quantise_tflite(write_tflite(net, {}), x, {"espalier": DESCRIBED}))
    packed.write_bytes(encode_sparse(whole.read_bytes()))
    assert packed.stat().st_size < 0.7 * whole.stat().st_size
    np.testing.assert_array_equal(TfliteRunner(whole, 1).run(x), TfliteRunner(packed, 1).run(x))


def test_what_gains_nothing_stays_as_it_is() -> None:
    dense = write_tflite(inference_graph(build_model("lenet5", (1, 20, 20), 4, seed=1)).net, {})
    assert encode_sparse(dense) == dense
    packed = encode_sparse(write_tflite(inference_graph(pruned(build_model("mlp", (400,), 4, seed=1), 0.9)).net, {}))
    assert encode_sparse(packed) == packed


def test_a_constant_that_two_tensors_share_stays_whole(tmp_path: Path) -> None:
    """Packed for one of them it would be too short for the other."""
    net = inference_graph(pruned(build_model("mlp", (400,), 4, seed=1, hidden=(9,)), 0.9), cut=False).net
    model = read_model(write_tflite(net, {}))
    tensors = model.subgraphs[0].tensors
    (weight,) = [t for t in tensors if list(t.shape) == [9, 400]]
    other = type(weight)()
    other.shape, other.type, other.buffer, other.name = weight.shape, weight.type, weight.buffer, b"the same again"
    tensors.append(other)
    data = pack(model)
    found = read_model(encode_sparse(data))
    (kept,) = [t for t in found.subgraphs[0].tensors if t.name == b"fc1.weight"]
    assert kept.sparsity is None
    assert len(found.buffers[kept.buffer].data) == 4 * 9 * 400
