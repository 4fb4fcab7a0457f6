"""`espalier boards …`: the boards we know, which of them this is, and how fast it really is."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from device_runtime.wire.errors import UsageError
from firmware_profiles.catalogue import load_boards
from firmware_profiles.detect import Detection, detect_board
from firmware_profiles.measured import MEASURED_FILE, MeasuredBoard
from firmware_profiles.schema import Board, Number

app = typer.Typer(add_completion=False, help="The boards we know, and which of them this is.")
# Units stand here once; the schema holds every number of a kind to one unit.
_COLUMNS = ("id", "cores", "GHz", "GFLOP/s", "copy GB/s", "idle W")
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback(invoke_without_command=True)
def boards(context: typer.Context, json: Json = False) -> None:
    """List the boards we know."""
    if context.invoked_subcommand:
        return
    if json:
        _print_json({"boards": list(load_boards().values())})
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in _COLUMNS:
        table.add_column(name, no_wrap=True)
    for board in load_boards().values():
        table.add_row(board.id, *_cells(board))
    Console().print(table)
    Console(soft_wrap=True).print(
        "GFLOP/s: fp32 peak of a cluster; copy: one core; — is not known. "
        "All numbers with kind, source and date: espalier boards --json, or firmware_profiles/boards/."
    )


@app.command()
def detect(
    root: Annotated[Path, typer.Option(help="Read /proc and /sys below this folder (a captured tree).")] = Path("/"),
    json: Json = False,
) -> None:
    """Say which board this is, and why."""
    found = detect_board(root)
    if json:
        _print_json(detection_record(found))
        return
    console = Console(soft_wrap=True, highlight=False)
    name = f"{found.board.id} ({found.board.name})" if found.board else "unknown"
    console.print(
        f"board: [bold]{name}[/]" + (", by its architecture only" if found.certainty == "architecture" else "")
    )
    for reason in found.reasons:
        console.print(f"  because {reason}", markup=False)
    for doubt in found.doubts:
        console.print(f"  but {doubt}", markup=False)
    if found.certainty != "board":
        console.print("  Its speed is not known: espalier boards measure")
    if found.certainty == "none":
        raise typer.Exit(1)


@app.command()
def measure(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Keep it in the folder of this device.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep it in this folder.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long to measure, in all.")] = 60.0,
    json: Json = False,
) -> None:
    """Measure products, convolutions and memory; kept in a device's folder, they override the board's numbers."""
    from device_runtime.boards.self_benchmark import measure_board
    from device_runtime.config import load_device_settings
    from device_runtime.store import write_atomic

    if config and folder:
        raise UsageError("--config and --folder both name a folder; give one of them.")
    place = Path(load_device_settings(config).folder) if config else folder
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        measured = measure_board(
            detect_board(),
            seconds=seconds,
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    if place:
        write_atomic(place / MEASURED_FILE, msgspec.json.format(msgspec.json.encode(measured)))
    if json:
        _print_json(measured)
    else:
        _show(measured, place)


def detection_record(found: Detection) -> dict[str, Any]:
    """A detection as JSON values."""
    return {
        "board": found.board.id if found.board else None,
        "certainty": found.certainty,
        "reasons": found.reasons,
        "doubts": found.doubts,
        "facts": found.facts,
    }


def _show(measured: MeasuredBoard, place: Path | None) -> None:
    table = Table("benchmark", "threads", "best", "repeats", "how", title=f"{measured.board}: {measured.machine}")
    for rate in measured.rates:
        spread = f"{min(rate.samples):.2f} to {max(rate.samples):.2f}"
        table.add_row(rate.quantity, str(rate.threads), f"{rate.value:.2f} {rate.unit}", spread, rate.how)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for doubt in measured.doubts:
        console.print(f"doubt: {doubt}", markup=False)
    kept = f"kept in {place / MEASURED_FILE}" if place else "not kept: give --config or --folder"
    console.print(kept, markup=False)


def _cells(board: Board) -> list[str]:
    first = board.clusters[0] if board.clusters else None
    cores = " + ".join(f"{_short(c.core_count)} {c.core.removeprefix('Cortex-')}" for c in board.clusters) or "—"
    of_first = [first.clock_max, first.fp32_peak, first.copy_core] if first else [None] * 3
    return [cores, *(_text(n) for n in of_first), _text(board.power.idle)]


def _short(number: Number | None) -> str:
    return "?" if number is None else f"{number.value:g}"


def _text(number: Number | None) -> str:
    if number is None:
        return "—"
    return f"{number.value:g}" + (f"-{number.upper:g}" if number.upper is not None else "")


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
