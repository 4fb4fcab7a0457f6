"""A run folder, an ONNX file or a torch model becomes a source, or is refused in one sentence."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper
from rich.console import Console

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import sha256_hex
from export.deploy.inspection import inspect_file
from export.deploy.provenance import onnx_provenance
from export.deploy.source import open_source
from export.deploy.tables import print_inspection
from export.forward.model import ForwardModel
from export.models.zoo import build_model
from tests.unit.export.deploy.conftest import SPEC

RunFolder = Callable[..., Path]


def weight(model: ForwardModel, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def test_a_run_gives_its_last_round_and_says_where_it_is_from(run_folder: RunFolder) -> None:
    run = run_folder(rounds=(3, 12))
    source = open_source(str(run))
    p = source.provenance
    assert (p.model, p.run, p.round_index, p.which) == ("mlp", "run", 12, "sparse")
    assert p.params_sha == sha256_hex((run / "models" / "12" / "params.safetensors").read_bytes())
    assert p.input == SPEC
    assert (p.source_parameters, source.input_shape) == (64 * 128 + 128 + 128 * 64 + 64 + 64 * 4 + 4, (1, 8, 8))
    assert source.held_out == run / "held_out.npz"
    assert onnx_provenance(onnx.load_from_string(source.as_onnx())) == p


def test_dense_is_the_restored_model_and_sparse_has_zeros(run_folder: RunFolder) -> None:
    run = run_folder(rounds=(3, 4))
    sparse = open_source(str(run), round_index=3)
    dense = open_source(str(run), round_index=3, which="dense")
    stored = safetensors.numpy.load((run / "models" / "3" / "params.safetensors").read_bytes())
    np.testing.assert_array_equal(weight(dense.model, "fc1.weight"), stored["fc1.weight"])
    assert 0.4 < np.mean(weight(sparse.model, "fc1.weight") == 0) < 0.6
    assert dense.provenance.which == "dense"
    assert dense.provenance.source_sha != sparse.provenance.source_sha


def test_a_sparse_model_of_another_round_is_found_out(run_folder: RunFolder) -> None:
    run = run_folder(rounds=(3, 4))
    (run / "models" / "3" / "supports").write_bytes((run / "models" / "4" / "supports").read_bytes())
    with pytest.raises(UsageError, match="pruned weights that are not zero"):
        open_source(str(run), round_index=3)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("models/3/params.safetensors", "malformed|cannot be read"),
        ("models/3/manifest.json", "malformed"),
        ("models/3/supports", "does not fit the manifest"),
        ("models/3/forward.onnx", "not a valid ONNX model"),
    ],
)
def test_a_damaged_run_is_refused(damage: str, text: str, run_folder: RunFolder) -> None:
    run = run_folder()
    (run / damage).write_bytes(b"\xff damaged")
    with pytest.raises(UsageError, match=text):
        open_source(str(run), which="dense" if "params" in damage else "sparse")
    (run / damage).unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        open_source(str(run))


def test_a_round_that_was_not_kept_is_named(run_folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model of round 7: choose one of 3, 12"):
        open_source(str(run_folder(rounds=(3, 12))), round_index=7)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"folder without models/<round>"):
        open_source(str(tmp_path / "empty"))


def test_an_onnx_file_is_a_source_and_a_missing_one_is_not(tmp_path: Path) -> None:
    onnx.save(build_model("mlp", (4,), 2, seed=1).proto, tmp_path / "net.onnx")
    source = open_source(str(tmp_path / "net.onnx"))
    assert (source.provenance.model, source.provenance.run, source.held_out) == ("net", "", None)
    with pytest.raises(UsageError, match="cannot be read"):
        open_source(str(tmp_path / "none.onnx"))


def test_a_torch_model_needs_the_shape_of_a_sample() -> None:
    with pytest.raises(UsageError, match="give --input"):
        open_source("package.module:factory")


def test_a_layer_that_a_device_kept_takes_the_place_of_the_models(run_folder: RunFolder, tmp_path: Path) -> None:
    source = open_source(str(run_folder()))
    own = {"fc3.weight": np.ones((4, 64), np.float32), "fc3.bias": np.arange(4, dtype=np.float32)}
    (tmp_path / "own.safetensors").write_bytes(safetensors.numpy.save(own))
    mine = source.with_parameters(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(weight(mine.model, "fc3.bias"), own["fc3.bias"])
    np.testing.assert_array_equal(weight(mine.model, "fc1.weight"), weight(source.model, "fc1.weight"))
    assert mine.provenance.replaced == ("fc3.bias", "fc3.weight")
    assert mine.provenance.source_sha != source.provenance.source_sha
    (tmp_path / "own.safetensors").write_bytes(safetensors.numpy.save({"fc9.weight": own["fc3.weight"]}))
    with pytest.raises(UsageError, match=r"no parameter 'fc9\.weight'"):
        source.with_parameters(tmp_path / "own.safetensors")
    (tmp_path / "own.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="malformed"):
        source.with_parameters(tmp_path / "own.safetensors")


def test_a_layer_of_zeros_and_values_leaves_the_sparse_model_as_it_is_elsewhere(
    run_folder: RunFolder, tmp_path: Path
) -> None:
    """What a device keeps is zero off its mask; the file that is written says what was replaced, and by what."""
    source = open_source(str(run_folder()))
    own = {"fc3.weight": weight(source.model, "fc3.weight") * np.float32(2)}
    path = tmp_path / "personal.safetensors"
    path.write_bytes(safetensors.numpy.save(own, {"espalier": '{"work": "of a device"}'}))
    mine = source.with_parameters(path)
    before = weight(source.model, "fc3.weight") == 0
    assert 0 < before.mean() < 1
    np.testing.assert_array_equal(weight(mine.model, "fc3.weight") == 0, before)
    assert mine.provenance.replaced_sha == sha256_hex(path.read_bytes())
    (tmp_path / "own.onnx").write_bytes(mine.as_onnx())
    console = Console(record=True, width=120, file=io.StringIO())
    print_inspection(console, inspect_file(tmp_path / "own.onnx"))
    assert f"fc3.weight by a file of sha {mine.provenance.replaced_sha[:16]}" in console.export_text()
