"""The command `espalier export`: a model in, the artifact folder that devices train out, or what a product runs."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from device_runtime.engines.registry import chosen_kind, engine_names
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec, Manifest
from export.artifacts.spec import ArtifactSpec
from export.artifacts.summary import ArtifactSummary, summarise
from export.artifacts.writers import writer_of
from export.deploy.commands import add_to
from export.forward.model import ForwardModel
from export.models.sources import load_model
from export.models.zoo import MODELS
from export.options import parse_loss, parse_shape
from export.steps.optimizers import choose_optimizer

_ENGINES = ", ".join(engine_names())
app = typer.Typer(
    add_completion=False, help="Turn models into what devices train and what products run.", no_args_is_help=True
)

add_to(app)


@app.callback()
def main() -> None:
    """Turn models into what devices train and what products run."""


@app.command()
def training(
    input_shape: Annotated[str, typer.Option("--input", help="Shape of one sample, e.g. 1,28,28.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the artifact into.")],
    model: Annotated[str | None, typer.Option("--model", help=f"Zoo model: {', '.join(MODELS)}.")] = None,
    torch: Annotated[str | None, typer.Option("--torch", help="Your torch model, as package.module:factory.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Your forward model as an ONNX file.")] = None,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes (or of outputs, with mse).")] = 10,
    loss: Annotated[str, typer.Option("--loss", help="cross_entropy, mse, bce_with_logits or l1.")] = "cross_entropy",
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adamw.")] = "sgd",
    momentum: Annotated[float, typer.Option("--momentum", help="Momentum of sgd.")] = 0.0,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Nesterov momentum.")] = False,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Weight decay.")] = 0.0,
    engine: Annotated[str, typer.Option("--engine", help=f"auto (the best that runs here), {_ENGINES}.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of a zoo model's initial values.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write the training artifact of an engine: its graphs and the manifest."""
    write = writer_of(chosen_kind(engine).name)
    shape = parse_shape(input_shape)
    rule = choose_optimizer(optimizer, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    name, forward = _forward_model(model, torch, onnx, shape, classes, seed)
    spec = ArtifactSpec(
        name=name, input=InputSpec(shape=shape), class_count=classes, loss=parse_loss(loss), optimizer=rule
    )
    manifest = write(forward, spec, out)
    summary = summarise(manifest)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    else:
        _print(out, manifest, summary)


def _forward_model(
    model: str | None, torch: str | None, onnx: Path | None, shape: tuple[int, ...], classes: int, seed: int
) -> tuple[str, ForwardModel]:
    """The name and the forward model of whichever source was given."""
    if sum(source is not None for source in (model, torch, onnx)) != 1:
        raise UsageError("give exactly one of --model, --torch and --onnx")
    forward = load_model(
        zoo=model or "",
        torch=torch or "",
        onnx_file=str(onnx or ""),
        input_shape=shape,
        class_count=classes,
        seed=seed,
    )
    return model or (torch or "").partition(":")[2] or (onnx or Path()).stem, forward


def _print(folder: Path, manifest: Manifest, summary: ArtifactSummary) -> None:
    table = Table(title=f"{manifest.model} in {folder}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for file in manifest.files:
        table.add_row(file.name, f"{file.size_bytes:,} bytes")
    table.add_section()
    table.add_row("parameters", f"{summary.parameter_count:,}")
    table.add_row("prunable", f"{summary.prunable_count:,} ({summary.prunable_share:.2%})")
    table.add_row("FLOPs per sample, forward", f"{summary.flops_forward:,}")
    table.add_row("FLOPs per sample, backward", f"{summary.flops_backward:,}")
    Console().print(table)
