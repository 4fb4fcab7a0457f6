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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every change of activity.")] = False,
) -> None:
    """Join the federation named in the settings, train what is assigned, until released or interrupted."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    from device_runtime.config import load_device_settings
    from device_runtime.link import over_mqtt
    from device_runtime.runner import Device

    settings = load_device_settings(config)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    reason = Device(settings, over_mqtt(settings.link)).run(stop)
    logging.getLogger("espalier.device").info("left: %s", reason)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The device's TOML file.")] = None,
    root: Annotated[Path, typer.Option(help="Look at the hardware of a captured tree.")] = Path("/"),
    only: Annotated[list[str] | None, typer.Option(help="Only this check; once per check.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check what keeps this board from training, and say for each how to mend it; exit status 1 if anything failed."""
    from device_runtime.doctor.doctor_command import run_doctor

    run_doctor(config, root, only or (), json)


@app.command()
def profile(
    artifact: Annotated[list[Path] | None, typer.Option(help="Artifact folder; once per engine.")] = None,
    model: Annotated[str, typer.Option(help="Zoo model instead, where `export` is installed.")] = "",
    input_shape: Annotated[str, typer.Option("--input", help="With --model: shape of one sample.")] = "1,28,28",
    classes: Annotated[int, typer.Option(min=1, help="With --model: number of classes.")] = 10,
    sparsity: Annotated[str, typer.Option(help="Shares of prunable weights removed, with commas.")] = "0",
    engine: Annotated[str, typer.Option(help="Engines, with commas; auto is all that there are.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples in a step.")] = 32,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="0 is one per usable core.")] = 1,
    repeats: Annotated[int | None, typer.Option(help="Repeats, at least 3; 5 unless given.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Least seconds of a repeat; 10 unless given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="3 repeats of 1 s: to see that it works.")] = False,
    soak: Annotated[float, typer.Option(help="Then train this many minutes on end, in the first case.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of values, masks and batches.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write all values and raw samples here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Draw here, where `aggregator` is installed.")] = None,
) -> None:
    """Measure what a training step costs here: time, FLOPs, memory, energy, layer by layer, with a verdict."""
    from device_runtime.profile.command import Options, profile_command

    profile_command(
        Options(
            artifacts=artifact or [],
            model=model,
            input_shape=input_shape,
            class_count=classes,
            sparsity=sparsity,
            engine=engine,
            batch=batch,
            threads=threads,
            repeats=repeats,
            seconds=seconds,
            quick=quick,
            soak_minutes=soak,
            seed=seed,
            json=json,
            html=html,
        )
    )
