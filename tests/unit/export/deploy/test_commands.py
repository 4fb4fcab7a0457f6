"""The commands onnx, tflite, c, inspect and verify, from a run folder to a proven file."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from device_runtime.wire.errors import UsageError
from export.commands import app
from export.deploy.budget import parse_bytes
from export.deploy.provenance import onnx_provenance
from export.models.zoo import build_model
from tests.unit.export.tflite.conftest import parsed

pytest.importorskip("onnxruntime")

RunFolder = Callable[..., Path]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_becomes_a_proven_onnx_file(run_folder: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    report = json.loads(run("onnx", str(run_folder()), "--out", str(out), "--labels", "a, b,c,d", "--json"))
    verification = report["verification"]
    assert verification["failures"] == []
    assert verification["samples"] == "40 of held_out.npz:x_test"
    assert verification["max_relative"] <= 1e-6
    assert verification["a"]["accuracy"] == verification["b"]["accuracy"]
    assert report["inspection"]["provenance"]["labels"] == ["a", "b", "c", "d"]
    assert report["inspection"]["provenance"]["input"]["scale"] == 0.5
    kept = onnx_provenance(onnx.load(out))
    assert kept is not None
    assert (kept.run, kept.round_index, kept.which, kept.dtype) == ("run", 3, "sparse", "fp32")


def test_int8_calibrates_on_data_and_says_so(run_folder: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.quantization")
    out = tmp_path / "m.onnx"
    folder = run_folder()
    report = json.loads(run("onnx", str(folder), "--int8", "--accuracy-loss", "0.2", "--out", str(out), "--json"))
    assert report["calibration"] == "40 of held_out.npz:x_test"
    assert report["inspection"]["provenance"]["dtype"] == "int8"
    assert report["inspection"]["dtypes"]["int8"] > 16_000


def test_tables_name_what_matters(run_folder: RunFolder, tmp_path: Path) -> None:
    folder, out = run_folder(), tmp_path / "m.onnx"
    text = run("onnx", str(folder), "--dense", "--out", str(out))
    for part in ("latency p50", "peak memory", "accuracy", "verified", "FLOPs per sample"):
        assert part in text
    text = run("inspect", str(out))
    for part in ("Gemm", "ideal", "compressed", "dense", "round 3"):
        assert part in text
    text = run("verify", str(out), str(out), "--data", str(folder / "held_out.npz"))
    assert "max 0" in text


def test_verify_ends_in_an_error_when_files_differ(tmp_path: Path) -> None:
    for seed in (1, 2):
        onnx.save(build_model("mlp", (4,), 2, seed=seed).proto, tmp_path / f"{seed}.onnx")
    with pytest.raises(UsageError, match=r"2\.onnx does not compute what .*1\.onnx does"):
        run("verify", str(tmp_path / "1.onnx"), str(tmp_path / "2.onnx"), "--json")
    assert json.loads(run("verify", *[str(tmp_path / "1.onnx")] * 2, "--json"))["max_abs"] == 0


def test_a_run_becomes_a_proven_tflite_file(run_folder: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    folder, out = run_folder(), tmp_path / "m.tflite"
    report = json.loads(run("tflite", str(folder), "--out", str(out), "--json"))
    assert report["verification"]["max_relative"] <= 1e-5
    assert report["inspection"]["provenance"]["layout"] == "channels_last"
    assert json.loads(run("inspect", str(out), "--json"))["kind"] == "tflite"
    run("tflite", str(folder), "--compact", "--out", str(tmp_path / "compact.tflite"), "--json")
    assert (tmp_path / "compact.tflite").stat().st_size < 0.9 * out.stat().st_size
    onnx_out = tmp_path / "m.onnx"
    run("onnx", str(folder), "--out", str(onnx_out), "--json")
    both = json.loads(run("verify", str(onnx_out), str(out), "--data", str(folder / "held_out.npz"), "--json"))
    assert both["failures"] == []


def test_c_source_compiles_and_holds_the_model(run_folder: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    out = tmp_path / "my-model.c"
    report = json.loads(run("c", str(run_folder()), "--out", str(out), "--flash", "80k", "--ram", "2k", "--json"))
    need = report["need"]
    # Input 64 and hidden layer 128 floats are alive at once; rounding to 16 bytes changes nothing here.
    assert need["ram_bytes"] == 4 * (64 + 128)
    assert need["flash_limit"] == 80 * 1024
    header = (tmp_path / "my-model.h").read_text()
    for part in (
        "FULLY_CONNECTED",
        "times 0.5",
        "extern const unsigned char my_model[];",
        f"{need['flash_bytes']} bytes",
    ):
        assert part in header
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    body = "int main(void) { return fwrite(my_model, 1, my_model_size, stdout) == 0; }"
    (tmp_path / "main.c").write_text(f'#include <stdio.h>\n#include "my-model.h"\n{body}\n')
    command = [
        compiler,
        "-std=c11",
        "-Wall",
        "-Werror",
        "-o",
        str(tmp_path / "main"),
        str(tmp_path / "main.c"),
        str(out),
    ]
    subprocess.run(command, check=True)
    content = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True).stdout
    assert len(content) == need["flash_bytes"]
    assert content[4:8] == b"TFL3"


def test_what_does_not_fit_leaves_nothing(run_folder: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    out = tmp_path / "c" / "m.c"
    with pytest.raises(
        UsageError, match=r"does not fit: it takes .* bytes of flash and 1,024 are given; it takes .* RAM"
    ):
        run("c", str(run_folder()), "--out", str(out), "--flash", "1k", "--ram", "100")
    with pytest.raises(UsageError, match="no name of a C file"):
        run("c", str(tmp_path / "run"), "--out", str(tmp_path / "m.bin"))
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_an_operator_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    text = "4 | h = Gemm <transB=1> (input, w, b) output = Erf (h)"
    model = parsed(text, {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32)})
    model.graph.node[1].name = "last"
    onnx.save(model.proto, tmp_path / "erf.onnx")
    out = tmp_path / "out" / "m.tflite"
    with pytest.raises(UsageError, match="no way to write Erf at node 'last'"):
        run("tflite", str(tmp_path / "erf.onnx"), "--out", str(out))
    assert not out.parent.exists()


def test_bytes_are_read() -> None:
    assert [parse_bytes(text, "--ram") for text in ("", "12", "2k", "1M")] == [None, 12, 2048, 1 << 20]
    for text in ("k", "1.5k", "-1", "1 k", "1g"):
        with pytest.raises(UsageError, match="no number of bytes"):
            parse_bytes(text, "--ram")


def test_without_the_extra_the_message_names_it(run_folder: RunFolder, tmp_path: Path) -> None:
    try:
        import ai_edge_litert  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match=r"pip install 'espalier-fl\[tflite\]'"):
            run("tflite", str(run_folder()), "--out", str(tmp_path / "m.tflite"))
        assert not (tmp_path / "m.tflite").exists()
    else:
        pytest.skip("LiteRT is installed here")


def test_raw_samples_are_normalised_as_the_file_says(run_folder: RunFolder, tmp_path: Path) -> None:
    """The mean of what the model sees is the spec's, not the raw data's: outputs differ from those on raw samples."""
    folder, out = run_folder(), tmp_path / "m.onnx"
    run("onnx", str(folder), "--out", str(out), "--json")
    import onnxruntime

    from export.deploy.samples import DataFile, load_samples

    kept = onnx_provenance(onnx.load(out))
    assert kept is not None
    samples = load_samples(DataFile(folder / "held_out.npz", count=5), kept.input, (1, 8, 8))
    with np.load(folder / "held_out.npz") as data:
        expected = (data["x_test"][::8].astype(np.float32)[:, None] * 0.5 - 1.0) / 2.0
    np.testing.assert_allclose(samples.x, expected)
    assert onnxruntime.InferenceSession(str(out)).run(None, {"input": samples.x})[0].shape == (5, 4)
