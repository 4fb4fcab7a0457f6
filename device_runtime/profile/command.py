"""What `espalier device profile` does with its options: check them, run, write JSON and page, print the tables."""

import importlib.metadata
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from device_runtime.profile.artifacts import checked_folders, chosen_engines, made_folders
from device_runtime.profile.methodology import REPEATS_MIN, quick_plan
from device_runtime.profile.record import Plan, Profile, encode_profile
from device_runtime.profile.run import Request, run_profile
from device_runtime.profile.table import show
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError

PAGES, PAGE = "espalier.pages", "profile"
_SECONDS_MAX, _SOAK_MINUTES_MAX = 3600.0, 24 * 60.0
DEFAULTS = Plan()


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line as given; None and "" are not given."""

    artifacts: Sequence[Path]
    model: str
    input_shape: str
    class_count: int
    sparsity: str
    engine: str
    batch: int
    threads: int
    repeats: int | None
    seconds: float | None
    quick: bool
    soak_minutes: float
    seed: int
    json: Path | None
    html: Path | None


def profile_command(options: Options) -> None:
    """Carry out the command. Raises UsageError for options that do not go together."""
    if bool(options.model) == bool(options.artifacts):
        raise UsageError("give --artifact with a folder, or --model with a name of the zoo: one of the two.")
    for path in (options.json, options.html):
        _check_writable(path)
    draw = _page_writer() if options.html else None
    plan, sparsities = plan_of(options), parse_sparsities(options.sparsity)
    with tempfile.TemporaryDirectory(prefix="espalier-profile-") as place:
        if options.model:
            engines = chosen_engines(options.engine)
            shape, classes = options.input_shape, options.class_count
            folders = made_folders(options.model, engines, Path(place), input_shape=shape, class_count=classes)
        else:
            folders = checked_folders(options.artifacts, options.engine)
        request = Request(
            artifacts=folders,
            sparsities=sparsities,
            threads=options.threads,
            batch=options.batch,
            seed=options.seed,
            plan=plan,
        )
        found = _with_progress(request)
    if options.json:  # files first: minutes of measuring must not be lost to a terminal that went away
        write_atomic(options.json, encode_profile(found))
    if options.html and draw:
        write_atomic(options.html, draw(found).encode())
    console = Console(highlight=False)
    show(found, console)
    for what, path in (("raw samples and all values", options.json), ("plots", options.html)):
        if path:
            console.print(f"{what}: {path}", markup=False)


def plan_of(options: Options) -> Plan:
    """The method that the options ask for. Raises UsageError for numbers out of range."""
    if options.quick and (options.repeats is not None or options.seconds is not None):
        raise UsageError("--quick sets repeats and seconds itself: leave --repeats and --seconds out.")
    if not 0 <= options.soak_minutes <= _SOAK_MINUTES_MAX:
        raise UsageError(f"--soak {options.soak_minutes:g} is out of range: give minutes up to {_SOAK_MINUTES_MAX:g}.")
    if options.quick:
        return quick_plan(options.soak_minutes)
    repeats = DEFAULTS.repeats if options.repeats is None else options.repeats
    seconds = DEFAULTS.seconds if options.seconds is None else options.seconds
    if not REPEATS_MIN <= repeats <= 1000:
        raise UsageError(f"--repeats {repeats} is out of range: fewer than {REPEATS_MIN} cannot tell noise from speed.")
    if not 0 < seconds <= _SECONDS_MAX:
        raise UsageError(f"--seconds {seconds:g} is out of range: give more than 0 and up to {_SECONDS_MAX:g}.")
    return Plan(repeats=repeats, seconds=seconds, soak_minutes=options.soak_minutes)


def parse_sparsities(text: str) -> tuple[float, ...]:
    """Sparsities written with commas, each once, in the order given.

    >>> parse_sparsities("0, 0.5,0.9")
    (0.0, 0.5, 0.9)

    Raises UsageError for anything but numbers from 0 up to, not including, 1.
    """
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*(0?\.\d{1,6}|0(\.\d{0,6})?)\s*", part, re.ASCII) for part in parts):
        raise UsageError(f"--sparsity {text!r}: give shares from 0 up to, not including, 1, with commas: 0,0.5,0.9")
    return tuple(dict.fromkeys(float(part) for part in parts))


def _check_writable(path: Path | None) -> None:
    """Raise UsageError before minutes are spent, for a file that could not be written after them."""
    if path is None:
        return
    folder = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{str(path)!r} cannot be written: give a file in a folder that can be.")


def _with_progress(request: Request) -> Profile:
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        return run_profile(request, lambda doing, share: bar.update(task, description=doing, completed=share))


def _page_writer() -> Callable[[Profile], str]:
    """The function that draws the page, registered by an installed aggregator under `espalier.pages`."""
    for point in importlib.metadata.entry_points(group=PAGES, name=PAGE):
        try:
            found: Callable[[Profile], str] = point.load()
        except ModuleNotFoundError as error:
            raise UsageError(f"--html needs {error.name}, which is not installed here: {_ELSEWHERE}") from error
        return found
    raise UsageError(f"--html needs the package 'aggregator', which is not installed here: {_ELSEWHERE}")


_ELSEWHERE = "use --json, and draw the file elsewhere with 'espalier report profiles FILE --html PAGE'."
