"""`espalier aggregator …`: the gateway's side by hand."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, help="Run the aggregator on this gateway, and look at its runs.", no_args_is_help=True
)


@app.callback()
def aggregator() -> None:
    """Run the aggregator on this gateway, and look at its runs."""


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's TOML file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every event as a line of JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a federation, or go on with it from the last committed round."""
    level = logging.DEBUG if verbose else logging.WARNING if as_json else logging.INFO
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("espalier").setLevel(level)  # libraries keep to warnings
    from aggregator.event_lines import print_json, print_line, to_log
    from aggregator.run_lock import holding
    from aggregator.service import Aggregator
    from aggregator.settings import load_settings
    from device_runtime.config import read_settings_file
    from device_runtime.link import over_mqtt

    settings = load_settings(config, read_settings_file(config))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    listeners = (print_json if as_json else print_line, to_log)
    with holding(Path(settings.run.folder)):
        finished = Aggregator(settings, over_mqtt(settings.link), listeners).run(stop)
    if not finished:
        typer.echo("stopped; the same command goes on from the last committed round", err=True)
        raise typer.Exit(130)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The run folder.")],
    compare: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER of another run to draw beside it.")] = None,
) -> None:
    """Write report.html of a finished run into its folder: plots, tables, settings, in one page."""
    from aggregator.report.run_report import write_report
    from aggregator.run_folder import read_result
    from device_runtime.wire.errors import UsageError

    others = {}
    for text in compare or ():
        name, separator, other = text.partition("=")
        if not separator or not name:
            raise UsageError(f"--compare {text!r} must be NAME=FOLDER.")
        others[name] = read_result(Path(other))
    typer.echo(f"report: {write_report(folder, read_result(folder), others)}")


Folder = Annotated[Path, typer.Argument(help="The run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """How far a run is: rounds committed, the round under way, updates by verdict, bytes."""
    from aggregator.inspection import run_status

    row = run_status(folder)
    _show([row] if as_json else [{"what": k.replace("_", " "), "value": v} for k, v in row.items()], "run", as_json)


@app.command()
def rounds(folder: Folder, as_json: AsJson = False) -> None:
    """The committed rounds: accuracies, devices and their sparsities, bytes, seconds."""
    from aggregator.inspection import round_rows

    rows = round_rows(folder)
    _show(rows if as_json else [_with_span(row) for row in rows], "rounds", as_json)


def _with_span(row: dict[str, object]) -> dict[str, object]:
    """The row with one sparsity, or the span of several, for the two of --json."""
    low, high = _cell(row["sparsity_lowest"]), _cell(row["sparsity_highest"])
    span = {"sparsity": low if low == high else f"{low}-{high}"}
    return {k: v for k, v in row.items() if not k.startswith("sparsity")} | span


@app.command()
def devices(folder: Folder, as_json: AsJson = False) -> None:
    """Every device the run has seen: membership, samples, contribution, weight, sparsity, cost, profile (with
    --json: engines, memory, bytes)."""
    from aggregator.inspection import device_rows

    rows = device_rows(folder)
    _show(rows if as_json else [_in_brief(row) for row in rows], "devices", as_json)
    for row in () if as_json else rows:
        if row["kept_back"]:
            typer.echo(f"{row['device']} keeps for itself: {row['kept_back']}")


def _in_brief(row: dict[str, object]) -> dict[str, object]:
    """What of a device's row stands in 80 columns."""
    shown = ("device", "member", "samples", "weight", "contribution", "sparsity", "step_ms_p50")
    bytes_up = row["bytes_up"]
    assert isinstance(bytes_up, int), "bytes are counted"
    return {name: row[name] for name in shown} | {"MB up": bytes_up / 1e6, "profile": row["profile"]}


# Heads that let a table stand in 80 columns; --json has the full names.
_HEADS = {
    "round_index": "round",
    "contribution": "ψ",
    "sparsity": "α",  # noqa: RUF001
    "step_ms_p50": "step ms",
}


def _show(rows: list[dict[str, object]], title: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for i, name in enumerate(rows[0] if rows else ()):
        head = _HEADS.get(name, name.replace("_", " "))
        table.add_column(head, no_wrap=i == 0, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table if rows else f"no {title} yet")


def _cell(value: object) -> str:
    if isinstance(value, float):  # at most 6 characters below 1, so that the table stands in 80 columns
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")
    return "-" if value is None else str(value)
