"""`espalier aggregator …`: the gateway's side by hand."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run the aggregator on this gateway, and look at its runs.", no_args_is_help=True)


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
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    from aggregator.service import Aggregator
    from aggregator.settings import load_settings
    from device_runtime.config import read_settings_file

    settings = load_settings(config, read_settings_file(config))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    finished = Aggregator(settings, _print_json if as_json else _print_line).run(stop)
    if not finished:
        typer.echo("stopped; the same command goes on from the last committed round", err=True)
        raise typer.Exit(130)


def _print_json(kind: str, fields: dict[str, object]) -> None:
    print(json.dumps({"event": kind, **fields}), flush=True)  # noqa: T201  # the machine-readable stream


def _print_line(kind: str, fields: dict[str, object]) -> None:
    if kind == "round":
        dense, sparse = fields["accuracy_dense"], fields["accuracy_sparse"]
        text = f"round {fields['round_index']}: accuracy dense {_share(dense)} sparse {_share(sparse)}"
        typer.echo(f"{text}, {fields['bytes_up']} bytes up, {fields['wall_s']:.2f} s")
    elif kind in ("device_joined", "device_left", "refused", "finished"):
        typer.echo(f"{kind.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in fields.items()))


def _share(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "unknown"
