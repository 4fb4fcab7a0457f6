"""Which artifacts a profile runs: folders that are given, or folders that an installed `export` makes of a model.

The device imports nothing of `export`: a function registered under the entry-point group `espalier.artifacts` writes an
artifact folder for a model's name, an engine, an input shape and a class count. A board without it profiles folders.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from device_runtime.engines import available_engines
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, decode_manifest
from device_runtime.wire.support import sha256_hex

GROUP = "espalier.artifacts"
POINT = "model"


class Writer(Protocol):
    """What the entry point gives."""

    def __call__(self, model: str, engine: str, folder: Path, *, input_shape: str, class_count: int) -> None: ...


def chosen_engines(text: str) -> tuple[str, ...]:
    """The engines of a comma-separated list, or all that run here for "auto".

    Raises UsageError for one that does not run here.
    """
    here = available_engines()
    if text == "auto":
        return here
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in here:
            raise UsageError(f"engine {name!r} does not run here; engines that do: {', '.join(here) or 'none'}.")
    if not names:
        raise UsageError(f"--engine names no engine; give one, or several with commas: {', '.join(here) or 'none'}.")
    return names


def checked_folders(folders: Sequence[Path], engine: str) -> list[Path]:
    """The given artifact folders, in the order of `engine` ("auto": as given), every file as its manifest says.

    Raises UsageError for a folder that is no whole artifact, and for an engine that none of them is for.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        manifest = _whole(folder)
        if manifest.engine in found:
            raise UsageError(
                f"{folder} and {found[manifest.engine]} are both for engine {manifest.engine!r}; give one."
            )
        found[manifest.engine] = folder
    wanted = tuple(found) if engine == "auto" else chosen_engines(engine)
    for name in wanted:
        if name not in found:
            raise UsageError(f"no --artifact is for engine {name!r}; they are for: {', '.join(found)}.")
        if name not in available_engines():
            here = ", ".join(available_engines()) or "none"
            raise UsageError(f"engine {name!r} of {found[name]} does not run here; export it for another ({here}).")
    return [found[name] for name in wanted]


def _whole(folder: Path) -> Manifest:
    try:
        manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
        for file in manifest.files:
            if sha256_hex((folder / file.name).read_bytes()) != file.sha:
                raise UsageError(f"{folder / file.name} is not the file that the manifest names: export it again.")
    except OSError as error:
        raise UsageError(
            f"{str(folder)!r} is no artifact folder ({error.strerror}): give one that 'espalier export' wrote."
        ) from error
    except RemoteWireError as error:
        raise UsageError(f"{str(folder)!r}: {error}.") from error
    return manifest


def made_folders(model: str, engines: Sequence[str], place: Path, *, input_shape: str, class_count: int) -> list[Path]:
    """One artifact folder per engine in `place`. Raises UsageError where `export` is not installed, or refuses."""
    write = _writer()
    for engine in engines:
        write(model, engine, place / engine, input_shape=input_shape, class_count=class_count)
    return [place / engine for engine in engines]


def _writer() -> Writer:
    for point in importlib.metadata.entry_points(group=GROUP, name=POINT):
        try:
            found: Writer = point.load()
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--model needs {error.name}, which is not installed here: pip install 'espalier-fl[aggregator]', or "
                "export the artifact elsewhere and give --artifact."
            ) from error
        return found
    raise UsageError("--model needs the package 'export', which is not installed here; give --artifact.")
