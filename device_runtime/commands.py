"""`espalier device …`: the runtime by hand."""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help="Run the device runtime on this board.", no_args_is_help=True)


@app.callback()
def device() -> None:
    """Run the device runtime on this board."""


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The device's TOML file.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every change of phase.")] = False,
) -> None:
    """Join the federation named in the settings, train what is assigned, until released or interrupted."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    from device_runtime.config import load_device_settings
    from device_runtime.runner import Device

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    reason = Device(load_device_settings(config)).run(stop)
    logging.getLogger("espalier.device").info("left: %s", reason)
