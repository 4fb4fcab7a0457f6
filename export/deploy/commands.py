"""The commands that turn what was trained into what runs: onnx, tflite, c, inspect, verify."""

import dataclasses
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from device_runtime.wire.errors import UsageError
from export.deploy.budget import parse_bytes
from export.deploy.c_array import CReport, deploy_c
from export.deploy.deployment import Report, Request, Via, deploy_onnx, deploy_tflite
from export.deploy.inspection import inspect_file
from export.deploy.samples import DataFile
from export.deploy.source import Source, Which, open_source
from export.deploy.tables import print_c, print_inspection, print_report, print_verification
from export.deploy.verification import ACCURACY_LOSS_MAX, Tolerance, verify
from export.options import parse_shape

SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Run folder, ONNX file, or torch model package.module:factory.")
]
OutOption = Annotated[Path, typer.Option("--out", help="File to write.")]
RoundOption = Annotated[int | None, typer.Option("--round", help="Round of the run; default: the last kept.")]
DenseOption = Annotated[bool, typer.Option("--dense/--sparse", help="The run's dense or sparse model.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Quantise weights and activations to int8.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="An .npz of raw samples to prove with; default: the run's held-out data.")
]
XOption = Annotated[str, typer.Option("--x", help="Its array of samples; default: x_test or x.")]
YOption = Annotated[str, typer.Option("--y", help="Its array of class numbers; default: y_test or y.")]
SamplesOption = Annotated[int, typer.Option("--samples", min=0, help="How many samples to prove with; 0: all.")]
LabelsOption = Annotated[str, typer.Option("--labels", help="Names of the classes, comma-separated.")]
InputOption = Annotated[str, typer.Option("--input", help="Shape of one sample, for a torch model, e.g. 3,32,32.")]
ReplaceOption = Annotated[
    Path | None,
    typer.Option("--replace", help="A safetensors file of parameters by name, e.g. a last layer that a device kept."),
]
LossOption = Annotated[
    float, typer.Option("--accuracy-loss", min=0.0, max=1.0, help="Accuracy that int8 may lose, as a share.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def onnx(
    source: SourceArgument,
    out: OutOption,
    round_index: RoundOption = None,
    dense: DenseOption = False,
    int8: Int8Option = False,
    data: DataOption = None,
    x: XOption = "",
    y: YOption = "",
    samples: SamplesOption = 2000,
    labels: LabelsOption = "",
    input_shape: InputOption = "",
    replace: ReplaceOption = None,
    accuracy_loss: LossOption = ACCURACY_LOSS_MAX,
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX inference graph, dead units cut out, and prove that it computes the same."""
    opened = _open(source, round_index, dense, input_shape, replace)
    request = Request(opened, out, int8, _data(data, opened.held_out, x, y, samples), _labels(labels), accuracy_loss)
    _show(deploy_onnx(request), as_json)


def tflite(
    source: SourceArgument,
    out: OutOption,
    round_index: RoundOption = None,
    dense: DenseOption = False,
    int8: Int8Option = False,
    data: DataOption = None,
    x: XOption = "",
    y: YOption = "",
    samples: SamplesOption = 2000,
    labels: LabelsOption = "",
    input_shape: InputOption = "",
    replace: ReplaceOption = None,
    accuracy_loss: LossOption = ACCURACY_LOSS_MAX,
    compact: Annotated[
        bool, typer.Option("--compact", help="Keep pruned weights as sparse tensors: a smaller file, same speed.")
    ] = False,
    via: Annotated[
        Via, typer.Option("--via", help="Who writes the operators; litert-torch, an extra, takes torch models only.")
    ] = "writer",
    as_json: JsonOption = False,
) -> None:
    """Write a TFLite (LiteRT) file, channels last, and prove that it computes the same."""
    opened = _open(source, round_index, dense, input_shape, replace)
    request = Request(opened, out, int8, _data(data, opened.held_out, x, y, samples), _labels(labels), accuracy_loss)
    _show(deploy_tflite(dataclasses.replace(request, compact=compact, via=via)), as_json)


def c(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="C file to write; its header is written beside it.")],
    flash: Annotated[str, typer.Option("--flash", help="Bytes of flash the model may take, e.g. 256k.")] = "",
    ram: Annotated[str, typer.Option("--ram", help="Bytes of RAM its tensors may take, e.g. 64k.")] = "",
    round_index: RoundOption = None,
    dense: DenseOption = False,
    int8: Int8Option = False,
    data: DataOption = None,
    x: XOption = "",
    y: YOption = "",
    samples: SamplesOption = 2000,
    labels: LabelsOption = "",
    input_shape: InputOption = "",
    replace: ReplaceOption = None,
    accuracy_loss: LossOption = ACCURACY_LOSS_MAX,
    as_json: JsonOption = False,
) -> None:
    """Write a TFLite model as a C array and a header for TFLite Micro, if it fits the flash and RAM given."""
    opened = _open(source, round_index, dense, input_shape, replace)
    request = Request(opened, out, int8, _data(data, opened.held_out, x, y, samples), _labels(labels), accuracy_loss)
    _show(deploy_c(request, flash_bytes=parse_bytes(flash, "--flash"), ram_bytes=parse_bytes(ram, "--ram")), as_json)


def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX or TFLite file.")],
    as_json: JsonOption = False,
) -> None:
    """Layers, shapes, parameters, zeros, FLOPs and sizes of any ONNX or TFLite file."""
    found = inspect_file(file)
    if as_json:
        _echo(found)
    else:
        print_inspection(Console(), found)


def compare(
    a: Annotated[Path, typer.Argument(help="The file that is right.")],
    b: Annotated[Path, typer.Argument(help="The file to compare with it.")],
    data: Annotated[Path | None, typer.Option("--data", help="An .npz of raw samples; default: drawn ones.")] = None,
    x: XOption = "",
    y: YOption = "",
    samples: SamplesOption = 2000,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Largest difference over largest output that passes, for fp32.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Run two files on the same inputs: differences, accuracy, latency, peak memory. Exit status 2 if b fails."""
    limit = None if tolerance is None else Tolerance(kind="fp32", relative=tolerance)
    found = verify(a, b, _data(data, None, x, y, samples), tolerance=limit, threads=threads)
    if as_json:
        _echo(found)
    else:
        print_verification(Console(), found)
    if found.failures:
        raise UsageError(f"{b} does not compute what {a} does: {'; '.join(found.failures)}")


def add_to(app: typer.Typer) -> None:
    """Give an application these commands."""
    for name, command in (("onnx", onnx), ("tflite", tflite), ("c", c), ("inspect", inspect), ("verify", compare)):
        app.command(name)(command)


def _open(source: str, round_index: int | None, dense: bool, input_shape: str, replace: Path | None) -> Source:
    which: Which = "dense" if dense else "sparse"
    shape = parse_shape(input_shape) if input_shape else None
    opened = open_source(source, round_index=round_index, which=which, input_shape=shape)
    return opened if replace is None else opened.with_parameters(replace)


def _labels(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _data(path: Path | None, held_out: Path | None, x: str, y: str, count: int) -> DataFile | None:
    chosen = path or held_out
    return None if chosen is None else DataFile(chosen, x, y, count)


def _show(report: Report | CReport, as_json: bool) -> None:
    if as_json:
        _echo(report)
    elif isinstance(report, Report):
        print_report(Console(), report)
    else:
        print_c(Console(), report)


def _echo(value: msgspec.Struct) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
