"""`espalier report …`: records of several boards side by side."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from aggregator.plain_text import plain

app = typer.Typer(add_completion=False, help="Compare what boards measured.", no_args_is_help=True)


@app.callback()
def report() -> None:
    """Compare what boards measured."""


@app.command()
def profiles(
    files: Annotated[list[Path], typer.Argument(help="JSON files of 'espalier device profile'.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the page here: plots, tables, sources.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare profiles of boards and sparsities; only valid cases enter medians, emulated ones never."""
    from aggregator.profiles.comparison import case_rows, entries, failures, left_out, medians, read_profiles
    from aggregator.profiles.page import profiles_html
    from device_runtime.store import write_atomic

    read = read_profiles(files)
    found = entries(read)
    if html is not None:
        write_atomic(html, profiles_html(read).encode())
    if json:
        answer = {"cases": case_rows(found), "medians": medians(found), "left_out": left_out(found)}
        answer["failures"] = failures(read)
        typer.echo(json_module.dumps(answer, indent=2))
        return
    _print(case_rows(found), "Cases", _CASE_COLUMNS)
    _print(medians(found), "Medians of valid cases", _MEDIAN_COLUMNS)
    for sentence in left_out(found):
        typer.echo(plain(f"left out of the medians: {sentence}"))
    for sentence in failures(read):
        typer.echo(plain(f"failed: {sentence}"))
    if html is not None:
        typer.echo(f"page: {html}")


_CASE_COLUMNS = {
    "profile": "profile",
    "engine": "engine",
    "sparsity": "sparsity",
    "step_ms_p50": "p50, ms",
    "gflops_per_s": "GFLOP/s",
    "faster_than_dense": "dense/this",
    "verdict": "verdict",
}
_MEDIAN_COLUMNS = {
    "board": "board",
    "model": "model",
    "engine": "engine",
    "sparsity": "sparsity",
    "batch": "batch",
    "profiles": "profiles",
    "step_ms_p50": "p50, ms",
    "gflops_per_s": "GFLOP/s",
}


def _print(rows: list[dict[str, object]], title: str, columns: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(*columns.values(), title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in columns))  # no markup: a device wrote it
    Console(highlight=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3g}" if isinstance(value, float) else plain(str(value))
