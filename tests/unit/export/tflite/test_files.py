"""The file around the operators: alignment, names, metadata, shapes at its border, int8, and what is read back."""

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from device_runtime.wire.errors import UsageError
from export.deploy.inference_graph import inference_graph, to_onnx
from export.deploy.inspection import inspect_file
from export.deploy.runners import TfliteRunner
from export.models.zoo import build_model
from tests.unit.export.tflite.conftest import DESCRIBED, parsed

pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")

from export.tflite.flatbuffer import ALIGNMENT
from export.tflite.reading import read_metadata, read_model, text
from export.tflite.writer import write_tflite


def test_every_constant_starts_where_a_vector_register_wants_it() -> None:
    data = write_tflite(inference_graph(build_model("resnet8", (3, 8, 8), 4, seed=1)).net, {})
    model = read_model(data)
    constants = [bytes(b.data) for b in model.buffers if b.data is not None and np.any(b.data)]
    long = [c for c in constants if len(c) > 64]
    assert len(long) > 8
    for constant in long:
        assert data.find(constant) % ALIGNMENT == 0


def test_names_are_those_of_the_onnx_values_and_no_two_are_equal() -> None:
    model = read_model(write_tflite(inference_graph(build_model("cnn1d", (6, 32), 4, seed=1)).net, {}))
    names = [text(t.name) for t in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert {"input", "output", "relu1.output", "fc1.weight"} <= set(names)
    (signature,) = model.signatureDefs
    assert [text(t.name) for t in (*signature.inputs, *signature.outputs)] == ["input", "output"]


def test_metadata_comes_back() -> None:
    data = write_tflite(inference_graph(build_model("mlp", (4,), 2, seed=1)).net, {"a": b"\0\xff", "b": b""})
    assert read_metadata(data) == {"a": b"\0\xff", "b": b""}


def test_sequences_stay_sequences_at_the_border(tmp_path: Path) -> None:
    model = parsed("3,12 | output = Conv <pads=[1,1]> (input, w)", {"w": np.ones((5, 3, 3), np.float32)})
    path = tmp_path / "m.tflite"
    path.write_bytes(write_tflite(inference_graph(model).net, {"espalier": DESCRIBED}))
    graph = read_model(path.read_bytes()).subgraphs[0]
    shapes = {text(graph.tensors[i].name): list(graph.tensors[i].shape) for i in (*graph.inputs, *graph.outputs)}
    assert shapes == {"input": [1, 12, 3], "output": [1, 12, 5]}
    x = np.random.default_rng(0).standard_normal((2, 3, 12)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model.proto).run(None, {"input": x})
    np.testing.assert_allclose(TfliteRunner(path, 1).run(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [0, 3, 8, 20, 100, 1000])
def test_a_file_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    data = write_tflite(inference_graph(build_model("mlp", (4,), 2, seed=1)).net, {})
    with pytest.raises(UsageError, match="malformed"):
        read_model(data[:size])


def test_inspection_counts_what_onnx_counts(tmp_path: Path) -> None:
    graph = inference_graph(build_model("lenet5", (1, 28, 28), 10, seed=1)).net
    (tmp_path / "m.tflite").write_bytes(write_tflite(graph, {}))
    (tmp_path / "m.onnx").write_bytes(to_onnx(graph).SerializeToString())
    ours, theirs = inspect_file(tmp_path / "m.tflite"), inspect_file(tmp_path / "m.onnx")
    assert (ours.kind, theirs.kind) == ("tflite", "onnx")
    assert (ours.parameters, ours.flops_dense) == (theirs.parameters, theirs.flops_dense) == (61_706, 833_040)
    assert ours.inputs == {"input": (1, 28, 28, 1)}
    assert [layer.op for layer in ours.layers][:3] == ["CONV_2D", "MAX_POOL_2D", "CONV_2D"]
    assert ours.dtypes["float32"] == 4 * 61_706


def test_int8_keeps_zeros_and_the_meaning(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-int8 is not installed")
    from export.tflite.int8 import quantise_tflite

    model = build_model("lenet5", (1, 28, 28), 10, seed=1)
    net = inference_graph(model).net
    weight = net.constants["fc1.weight"].copy()
    weight[np.random.default_rng(0).random(weight.shape) < 0.9] = 0.0
    net.constants["fc1.weight"] = weight
    x = np.random.default_rng(1).standard_normal((48, 1, 28, 28)).astype(np.float32)
    paths = [tmp_path / "fp32.tflite", tmp_path / "int8.tflite"]
    paths[0].write_bytes(write_tflite(net, {"espalier": DESCRIBED}))
    paths[1].write_bytes(quantise_tflite(paths[0].read_bytes(), x, {"espalier": DESCRIBED, "note": b"1"}))
    a, b = (TfliteRunner(path, 1).run(x) for path in paths)
    assert np.sqrt(np.mean((a - b) ** 2)) <= 0.05 * np.sqrt(np.mean(a**2))
    found = inspect_file(paths[1])
    (fc1,) = [layer for layer in found.layers if layer.parameters == weight.size + 120]
    assert fc1.dtype == "int8"
    assert fc1.zeros >= np.count_nonzero(weight == 0)
    assert found.file_bytes < paths[0].stat().st_size / 3
    assert read_metadata(paths[1].read_bytes())["note"] == b"1"


def test_constants_behind_the_flatbuffer_are_read(tmp_path: Path) -> None:
    """Large models are written with their constants behind the flatbuffer; the quantiser does so."""
    from export.tflite.flatbuffer import pack

    data = write_tflite(inference_graph(build_model("mlp", (4,), 2, seed=1)).net, {})
    inside = read_model(data)
    model = read_model(data)
    constants = [b for b in model.buffers if b.data is not None and len(b.data) > 64]
    parts = [bytes(b.data) for b in constants]
    for buffer, part in zip(constants, parts, strict=True):
        buffer.data, buffer.size, buffer.offset = None, len(part), 1 << 20  # as long as any offset is
    start = len(pack(model))
    for buffer, part in zip(constants, parts, strict=True):
        buffer.offset, start = start, start + len(part)
    outside = pack(model) + b"".join(parts)
    found = read_model(outside)
    for a, b in zip(inside.buffers, found.buffers, strict=True):
        assert (a.data is None) == (b.data is None)
        assert a.data is None or bytes(a.data) == bytes(b.data)
    with pytest.raises(UsageError, match="outside of it"):
        read_model(outside[:-1])


def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    """A thousand files with one to three bytes changed."""
    graph = inference_graph(build_model("mlp", (4,), 2, seed=1, hidden=(3,))).net
    data = write_tflite(graph, {"espalier": DESCRIBED})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(8, len(data))] = rng.integers(256)
        (tmp_path / "m").write_bytes(bytes(damaged))
        try:
            inspect_file(tmp_path / "m")
        except UsageError:
            refused += 1
    assert 100 < refused < 1000
