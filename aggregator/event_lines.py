"""Listeners to a run that write lines: of JSON for programs, of words for a person, of the log."""

import json
import logging

import msgspec
import typer

from aggregator.plain_text import plain
from aggregator.run_events import (
    DeviceJoined,
    DeviceLeft,
    DeviceReturned,
    Finished,
    Noted,
    ProfileKept,
    Refused,
    RoundCommitted,
    RunEvent,
)

log = logging.getLogger("espalier.aggregator")


def print_json(event: RunEvent) -> None:
    """The event as a line of JSON on stdout."""
    typer.echo(json.dumps(msgspec.to_builtins(event)))


def print_line(event: RunEvent) -> None:
    """What a person wants to see of the event on stdout, if anything."""
    match event:
        case RoundCommitted():
            accuracy = f"accuracy dense {_share(event.accuracy_dense)} sparse {_share(event.accuracy_sparse)}"
            typer.echo(f"round {event.round_index}: {accuracy}, {event.bytes_up} bytes up, {event.wall_s:.2f} s")
        case Noted(text=text):
            typer.echo(plain(text))
        case DeviceJoined() | DeviceReturned() | DeviceLeft() | Refused() | ProfileKept() | Finished():
            fields = msgspec.to_builtins(event)
            kind = fields.pop("event").replace("_", " ")
            typer.echo(plain(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in fields.items())))


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def to_log(event: RunEvent) -> None:
    """Notes, into the log."""
    if isinstance(event, Noted):
        log.info("%s", plain(event.text))
