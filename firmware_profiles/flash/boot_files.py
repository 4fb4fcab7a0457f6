"""The files of a boot partition: in an image through mtools, without root, or in a mounted folder."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from device_runtime.wire.errors import UsageError
from firmware_profiles.flash.partition import Partition

TOOL_TIMEOUT_S = 600


class BootFiles(Protocol):
    """What a provisioner needs of a boot partition. Paths are relative, with slashes."""

    def label(self) -> str | None:
        """The file system's label; None where that cannot be told."""

    def read(self, path: str) -> bytes | None:
        """A file's bytes, None when there is none."""

    def free_bytes(self) -> int:
        """Room that is left."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, over those that are there, in the order given, durably."""


class ImageFiles:
    """A FAT partition inside an image file. Raises UsageError where mtools is missing or says no."""

    def __init__(self, image: Path, partition: Partition) -> None:
        self._drive = f"{image}@@{partition.offset}"

    def label(self) -> str | None:
        """The label in the root folder."""
        found = re.search(r"^ Volume in drive : is (.+?)\s*$", self._tool("mdir", "::/"), re.MULTILINE)
        return found[1] if found else ""

    def read(self, path: str) -> bytes | None:
        """A file's bytes, copied out by mtools."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "file"
            try:
                self._tool("mcopy", "-n", f"::/{path}", str(copy))
            except UsageError:
                return None
            return copy.read_bytes()

    def free_bytes(self) -> int:
        """Room that is left, as mtools counts it."""
        found = re.search(r"([\d ]+) bytes free", self._tool("mdir", "::/"))
        if not found:
            raise UsageError("mtools does not tell how much room the boot partition has.")
        return int(found[1].replace(" ", ""))

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, over those that are there."""
        folders = {str(p) for path in files for p in PurePosixPath(path).parents if str(p) != "."}
        for folder in sorted(folders, key=lambda f: f.count("/")):
            self._tool("mmd", "-D", "s", f"::/{folder}", allowed=(0, 1))  # 1: it is there
        with tempfile.TemporaryDirectory() as staging:
            for path, data in files.items():
                staged = Path(staging) / "file"
                staged.write_bytes(data)
                self._tool("mcopy", "-o", "-D", "o", str(staged), f"::/{path}")

    def _tool(self, name: str, *arguments: str, allowed: Sequence[int] = (0,)) -> str:
        if shutil.which(name) is None:
            raise UsageError(f"{name} is not installed; it writes into images without root: sudo apt install mtools.")
        done = subprocess.run(
            [name, "-i", self._drive, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull, "LC_ALL": "C.UTF-8"},
            timeout=TOOL_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode not in allowed:
            said = next(
                (line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()), "no reason"
            )
            raise UsageError(f"{name} cannot work on the boot partition: {said}.")
        return done.stdout


class FolderFiles:
    """A mounted boot partition, as a desktop shows it after Raspberry Pi Imager."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"the boot folder {str(folder)!r} is not there; is the card mounted?")
        self._folder = folder

    def label(self) -> str | None:
        """A folder does not tell its file system's label."""
        return None

    def read(self, path: str) -> bytes | None:
        """A file's bytes."""
        try:
            return (self._folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"{str(self._folder / path)!r} cannot be read: {error.strerror}.") from error

    def free_bytes(self) -> int:
        """Room for an ordinary user."""
        room = os.statvfs(self._folder)
        return room.f_bavail * room.f_frsize

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write each file whole beside its place, then rename it there."""
        try:
            for path, data in files.items():
                place = self._folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                fresh = place.with_name(place.name + ".new")
                with fresh.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(fresh, place)
        except OSError as error:
            raise UsageError(f"{str(self._folder)!r} cannot be written: {error.strerror}.") from error
