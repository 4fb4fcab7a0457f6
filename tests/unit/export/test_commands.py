"""`espalier export training` writes the artifact, reports it, and refuses bad input in one sentence."""

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import decode_manifest
from export.commands import app
from export.models.zoo import build_model
from export.options import parse_shape

pytest.importorskip("onnxruntime")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["training", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_reports_counts_and_flops(tmp_path: Path) -> None:
    out = tmp_path / "art"
    report = json.loads(run("--model", "mnistnet", "--input", "1,28,28", "--out", str(out), "--json"))
    assert report["parameter_count"] == 261_840
    assert report["prunable_count"] == 261_750
    assert report["prunable_share"] == pytest.approx(261_750 / 261_840)
    assert report["flops_forward"] == 288_000 + 3_240_000 + 512_000 + 1000
    assert report["flops_backward"] == 2 * report["flops_forward"] - 288_000
    assert {f["name"] for f in report["files"]} == {p.name for p in out.iterdir()} - {"manifest.json"}


def test_the_table_names_files_and_figures(tmp_path: Path) -> None:
    text = run("--model", "mnistnet", "--input", "1,28,28", "--out", str(tmp_path / "art"))
    for part in ("training_model.onnx", "261,840", "261,750", "4,041,000", "7,794,000"):
        assert part in text


def test_options_reach_the_manifest(tmp_path: Path) -> None:
    options = ["--momentum", "0.9", "--nesterov", "--weight-decay", "0.001", "--loss", "mse", "--classes", "3"]
    run("--model", "mlp", "--input", "8", "--out", str(tmp_path / "art"), *options)
    manifest = decode_manifest((tmp_path / "art" / "manifest.json").read_bytes())
    assert (manifest.loss, manifest.class_count, manifest.input.shape) == ("mse", 3, (8,))
    rule = manifest.optimizer
    assert (rule.where, rule.momentum, rule.nesterov, rule.weight_decay) == ("host", 0.9, True, 0.001)


def test_an_onnx_file_is_a_source_too(tmp_path: Path) -> None:
    onnx.save(build_model("mlp", (8,), 4, seed=1).proto, tmp_path / "net.onnx")
    run("--onnx", str(tmp_path / "net.onnx"), "--input", "8", "--classes", "4", "--out", str(tmp_path / "art"))
    assert decode_manifest((tmp_path / "art" / "manifest.json").read_bytes()).model == "net"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--input", "8"], "exactly one of --model, --torch and --onnx"),
        (["--input", "8", "--model", "mlp", "--onnx", "x.onnx"], "exactly one of"),
        (["--input", "8x8", "--model", "mlp"], "no shape: write positive integers"),
        (["--input", "0", "--model", "mlp"], "no shape"),
        (["--input", "1,4,4", "--model", "lenet5"], "smallest that fits is 1x16x16"),
        (["--input", "8", "--model", "mlp", "--loss", "hinge"], "no loss 'hinge'"),
        (["--input", "8", "--model", "mlp", "--optimizer", "lion"], "no optimizer 'lion'"),
        (["--input", "8", "--onnx", "missing.onnx"], "missing.onnx cannot be read"),
    ],
)
def test_bad_input_is_a_usage_error(arguments: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=text):
        run(*arguments, "--out", str(tmp_path / "art"))
    assert not list(tmp_path.iterdir())


def test_shapes_are_read() -> None:
    assert parse_shape("1, 28,28") == (1, 28, 28)
    for text in ("", "1,,2", "-1", "²", "1.5", "9" * 5000):
        with pytest.raises(UsageError, match="no shape"):
            parse_shape(text)
