"""A wheelhouse: every wheel that a board needs, gathered once, locked by hash, checked before it goes onto a card."""

import datetime
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from device_runtime.wire.errors import UsageError
from device_runtime.wire.version import VERSION
from firmware_profiles.base_install import base_install, board_environment

LOCK = "requirements.lock"
INDEX = "wheelhouse.json"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
GLIBC = ("2_28", "2_27", "2_17")
DOWNLOAD_TIMEOUT_S = 1800
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)


class Wheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a wheelhouse."""

    file: str
    name: str
    version: str
    size_bytes: int
    sha256: str


class Wheelhouse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a wheelhouse holds, and for which Python."""

    schema: int = 1
    python: str
    machine: str = "aarch64"
    espalier: str
    date: str
    wheels: tuple[Wheel, ...]


def gather(
    folder: Path, python: str, own: Path | None, run: Callable[[list[str]], None], kernels: Path | None = None
) -> Wheelhouse:
    """Download every wheel for `python` on 64-bit ARM into `folder`, and lock them. `own` is Espalier's wheel; without
    one it is downloaded as well. `kernels` is the wheel of the compiled sparse operators, for boards that are to train
    with engine sparse. Raises UsageError when the folder is not empty, or a wheel is for another machine."""
    if python not in PYTHONS:
        raise UsageError(f"--python {python!r} is none of {', '.join(PYTHONS)}.")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"the folder {str(folder)!r} is not empty; give a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    # Without markers: pip evaluates them for the machine that it runs on, not for the one that it downloads for.
    wanted = [f"{r.name}{r.specifier}" for r in base_install(board_environment(python))]
    if own is None:
        run([*_download(folder, python), "--no-deps", f"espalier-fl=={VERSION}"])
    else:
        _copy(own, folder, "--wheel", "pip wheel --no-deps .")
    if kernels is not None:
        _copy(kernels, folder, "--kernels", "scripts/kernel-wheels OUT aarch64")
    run([*_download(folder, python), *wanted])
    return lock(folder, python)


def _copy(wheel: Path, folder: Path, option: str, remedy: str) -> None:
    if not _WHEEL.fullmatch(wheel.name) or not wheel.is_file():
        raise UsageError(f"{option} {str(wheel)!r} is not a wheel; make one with: {remedy}")
    (folder / wheel.name).write_bytes(wheel.read_bytes())


def lock(folder: Path, python: str) -> Wheelhouse:
    """Write requirements.lock and wheelhouse.json for the wheels in `folder`."""
    wheels = []
    for path in sorted(folder.glob("*.whl")):
        found = _WHEEL.fullmatch(path.name)
        if not found or not _fits(found, python):
            raise UsageError(f"the wheel {path.name!r} is not for Python {python} on 64-bit ARM.")
        data = path.read_bytes()
        wheels.append(
            Wheel(
                file=path.name,
                name=re.sub(r"[-_.]+", "-", found["name"]).lower(),
                version=found["version"],
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    names = [w.name for w in wheels]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UsageError(f"the folder {str(folder)!r} has several wheels of {', '.join(twice)}; keep one of each.")
    if "espalier-fl" not in names:
        raise UsageError(f"the folder {str(folder)!r} has no wheel of espalier-fl.")
    house = Wheelhouse(python=python, espalier=VERSION, date=datetime.date.today().isoformat(), wheels=tuple(wheels))
    (folder / LOCK).write_text("".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels))
    (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(house)))
    return house


def load(folder: Path) -> tuple[Wheelhouse, Mapping[str, bytes]]:
    """A wheelhouse and its files, every hash checked. Raises UsageError naming what is missing or changed."""
    try:
        house = msgspec.json.decode((folder / INDEX).read_bytes(), type=Wheelhouse)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"--wheelhouse {str(folder)!r} is none ({error}); make one with: espalier flash wheelhouse --out FOLDER"
        ) from error
    contents = {}
    for wheel in house.wheels:
        path = folder / wheel.file
        data = path.read_bytes() if wheel.file == path.name and path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != wheel.sha256:
            raise UsageError(f"{wheel.file!r} in --wheelhouse is missing or not what was locked; gather it again.")
        contents[wheel.file] = data
    lock_lines = "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in house.wheels)
    return house, {**contents, LOCK: lock_lines.encode()}


def run_pip(command: list[str]) -> None:
    """Run pip. Raises UsageError with its last word."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError("pip does not end; is the package index reachable?") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason"]
        raise UsageError(f"pip cannot download the wheels: {said[0].removeprefix('ERROR: ')}")


def _download(folder: Path, python: str) -> list[str]:
    tag = python.replace(".", "")
    platforms = [f"manylinux_{glibc}_aarch64" for glibc in GLIBC] + ["manylinux2014_aarch64"]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"),
        *(
            "--dest",
            str(folder),
            "--python-version",
            tag,
            "--implementation",
            "cp",
            "--abi",
            f"cp{tag}",
            "--abi",
            "abi3",
        ),
        *("--abi", "none"),
        *(argument for platform in platforms for argument in ("--platform", platform)),
    ]


def _fits(wheel: re.Match[str], python: str) -> bool:
    """Whether a wheel's tags can be installed on that Python on 64-bit ARM."""
    tag = "cp" + python.replace(".", "")
    machine = any(p == "any" or p.endswith("_aarch64") for p in wheel["platform"].split("."))
    stable = "abi3" in wheel["abi"].split(".") and any(p.startswith("cp3") for p in wheel["python"].split("."))
    pure = wheel["abi"] == "none" and any(p.startswith("py3") for p in wheel["python"].split("."))
    return machine and (tag in wheel["python"].split(".") or stable or pure)
