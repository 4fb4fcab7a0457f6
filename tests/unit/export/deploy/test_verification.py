"""A comparison says what differs; a file that does not compute the same never gets its name."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from device_runtime.wire.errors import UsageError
from export.deploy.deployment import Request, deploy_onnx
from export.deploy.publish import publish
from export.deploy.samples import DataFile
from export.deploy.source import open_source
from export.deploy.verification import Tolerance, failures, verify
from export.models.zoo import build_model

pytest.importorskip("onnxruntime")


def disturbed(model: ModelProto, name: str, amount: float) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(amount), name))
    return copy


@pytest.fixture
def files(tmp_path: Path) -> Callable[[float], tuple[Path, Path]]:
    """Two files of an mlp; the second has its last biases moved."""

    def make(amount: float) -> tuple[Path, Path]:
        model = build_model("mlp", (6,), 3, seed=1)
        onnx.save(model.proto, tmp_path / "a.onnx")
        onnx.save(disturbed(model.proto, "fc3.bias", amount), tmp_path / "b.onnx")
        return tmp_path / "a.onnx", tmp_path / "b.onnx"

    return make


def test_equal_files_agree_exactly(files: Callable[[float], tuple[Path, Path]]) -> None:
    found = verify(*files(0.0), None, seconds=0)
    assert (found.max_abs, found.mean_abs, found.max_relative, found.rms_relative) == (0, 0, 0, 0)
    assert (found.argmax_agreement, found.failures) == (1.0, ())
    assert found.a.accuracy is None
    assert found.samples == "64 drawn from N(0, 1)"


def test_a_difference_is_measured_and_fails(files: Callable[[float], tuple[Path, Path]]) -> None:
    found = verify(*files(0.5), None, seconds=0)
    assert found.max_abs == pytest.approx(0.5, abs=1e-6)
    assert found.mean_abs == pytest.approx(0.5, abs=1e-6)
    assert found.argmax_agreement == 1.0
    (reason,) = found.failures
    assert "over 1e-05" in reason
    loose = verify(*files(0.5), None, tolerance=Tolerance(kind="fp32", relative=1.0), seconds=0)
    assert loose.failures == ()


def test_accuracy_is_that_of_the_labels(files: Callable[[float], tuple[Path, Path]], tmp_path: Path) -> None:
    a, b = files(0.0)
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    import onnxruntime

    y = onnxruntime.InferenceSession(str(a)).run(None, {"input": x})[0].argmax(axis=1)
    y[:10] = (y[:10] + 1) % 3
    np.savez(tmp_path / "d.npz", x=x, y=y)
    found = verify(a, b, DataFile(tmp_path / "d.npz"), seconds=0)
    assert found.a.accuracy == found.b.accuracy == 0.8


def test_cost_is_measured_in_a_process_of_its_own(files: Callable[[float], tuple[Path, Path]]) -> None:
    found = verify(*files(0.0), None, seconds=0.05)
    for side in (found.a, found.b):
        assert side.cost is not None
        assert 0 < side.cost.latency_ns_p50 <= side.cost.latency_ns_p90
        assert side.cost.runs >= 20


def test_int8_is_judged_by_accuracy_where_labels_are_known(files: Callable[[float], tuple[Path, Path]]) -> None:
    found = verify(*files(0.0), None, tolerance=Tolerance(kind="int8", relative=0.1), seconds=0)

    def with_accuracy(a: float | None, b: float | None, rms: float) -> tuple[str, ...]:
        sides = {k: msgspec.structs.replace(getattr(found, k), accuracy=v) for k, v in (("a", a), ("b", b))}
        return failures(msgspec.structs.replace(found, rms_relative=rms, **sides))

    assert with_accuracy(0.90, 0.89, 0.5) == ()
    assert with_accuracy(0.90, 0.95, 0.5) == ()
    assert with_accuracy(0.90, 0.88, 0.0) == ("accuracy falls by 2.00 points, more than 1",)
    assert with_accuracy(None, None, 0.05) == ()
    assert "RMS" in with_accuracy(None, None, 0.2)[0]
    assert failures(msgspec.structs.replace(found, max_abs=float("nan"))) == ("outputs are not finite",)


def test_models_of_different_tasks_are_not_compared(tmp_path: Path) -> None:
    for classes in (3, 4):
        onnx.save(build_model("mlp", (6,), classes, seed=1).proto, tmp_path / f"{classes}.onnx")
    with pytest.raises(UsageError, match="compare models of one task"):
        verify(tmp_path / "3.onnx", tmp_path / "4.onnx", None, seconds=0)


def test_a_wrong_file_is_not_left_under_the_name(files: Callable[[float], tuple[Path, Path]], tmp_path: Path) -> None:
    a, b = files(0.5)
    source = open_source(str(a))
    out = tmp_path / "out" / "m.onnx"
    publish(a.read_bytes(), out, source, samples=None, seconds=0)
    assert out.read_bytes() == a.read_bytes()
    with pytest.raises(UsageError, match=r"m\.onnx does not compute what a does .* nothing was written"):
        publish(b.read_bytes(), out, source, samples=None, seconds=0)
    assert list(out.parent.iterdir()) == []


def test_a_file_that_does_not_run_is_not_left_either(
    files: Callable[[float], tuple[Path, Path]], tmp_path: Path
) -> None:
    source = open_source(str(files(0.0)[0]))
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    out.write_bytes(b"earlier")
    with pytest.raises(UsageError, match="does not run"):
        publish(b"no model", out, source, samples=None, seconds=0)
    assert list(out.parent.iterdir()) == []


def test_a_file_beside_stays_when_data_is_missing(files: Callable[[float], tuple[Path, Path]], tmp_path: Path) -> None:
    """Bad arguments say nothing of the file that is there already."""
    source_file = str(files(0.0)[0])
    source = open_source(source_file)
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    with pytest.raises(UsageError, match="cannot be read"):
        publish(
            Path(source_file).read_bytes(),
            tmp_path / "m.onnx",
            source,
            samples=DataFile(tmp_path / "none.npz"),
            seconds=0,
        )
    assert (tmp_path / "m.onnx").read_bytes() == b"earlier"


def test_int8_without_data_is_refused(files: Callable[[float], tuple[Path, Path]], tmp_path: Path) -> None:
    request = Request(open_source(str(files(0.0)[0])), tmp_path / "m.onnx", int8=True)
    with pytest.raises(UsageError, match="int8 needs real samples"):
        deploy_onnx(request)
    assert not request.out.exists()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"z": np.zeros(3)}, "no array x_test or x: it has z"),
        ({"x": np.zeros((4, 7), np.float32)}, r"samples of shape \(7,\), the model takes \(6,\)"),
        ({"x": np.zeros((4, 6), np.float32), "y": np.zeros(3, int)}, "4 samples in x and 3 in y"),
    ],
)
def test_data_that_does_not_fit_is_named(
    arrays: dict[str, np.ndarray], text: str, files: Callable[[float], tuple[Path, Path]], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError, match=text):
        verify(*files(0.0), DataFile(tmp_path / "d.npz"), seconds=0)


def test_a_quantised_file_of_any_origin_is_judged_as_one(tmp_path: Path) -> None:
    """Nothing but its weights says that it is quantised."""
    pytest.importorskip("onnxruntime.quantization")
    from export.deploy.int8_onnx import quantise_onnx

    model = build_model("mlp", (6,), 3, seed=1)
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    onnx.save(model.proto, tmp_path / "a.onnx")
    onnx.save(quantise_onnx(model.proto, x), tmp_path / "b.onnx")
    found = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", None, seconds=0)
    assert (found.a.dtype, found.b.dtype, found.tolerance.kind) == ("fp32", "int8", "int8")
    assert 0 < found.rms_relative < 0.1
