"""Disk images as bytes: copied or unpacked whole, hashed outside the boot partition, their file system checked."""

import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from device_runtime.wire.errors import UsageError
from firmware_profiles.flash.partition import Partition

CHUNK = 4 * 1024 * 1024
XZ = b"\xfd7zXZ\x00"
PACKED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
TOOL_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
Progress = Callable[[str, int, int | None], None]


def copy_image(source: Path, out: Path, progress: Progress) -> str:
    """Copy or unpack `source` to `out`, with holes for zeros; returns the SHA-256 of `source` as it lies there."""
    total = source.stat().st_size
    digest = hashlib.sha256()
    try:
        with source.open("rb") as raw, out.open("wb") as target:
            stream = _unpacked(raw, source)
            while chunk := stream.read(CHUNK):
                if chunk.count(0) == len(chunk):
                    target.seek(len(chunk), os.SEEK_CUR)
                else:
                    target.write(chunk)
                progress("copying", raw.tell(), total)
            target.truncate(target.tell())
            raw.seek(0)
            while chunk := raw.read(CHUNK):
                digest.update(chunk)
    except EOFError as error:
        raise UsageError(f"{str(source)!r} is cut short: its compressed data do not end. Download it again.") from error
    except lzma.LZMAError as error:
        raise UsageError(f"{str(source)!r} is damaged: {error}. Download it again.") from error
    except OSError as error:
        raise UsageError(f"cannot copy {str(source)!r} to {str(out)!r}: {error.strerror or error}.") from error
    return digest.hexdigest()


def hash_outside(image: Path, partition: Partition, what: str, progress: Progress) -> str:
    """SHA-256 of every byte that is not the boot partition's."""
    digest, size = hashlib.sha256(), image.stat().st_size
    with image.open("rb") as file:
        for begin, end in ((0, partition.offset), (partition.offset + partition.size, size)):
            file.seek(begin)
            while file.tell() < end:
                digest.update(file.read(min(CHUNK, end - file.tell())))
                progress(what, file.tell(), size)
    return digest.hexdigest()


def check_file_system(image: Path, partition: Partition) -> str:
    """The verdict of fsck.vfat on a copy of the partition, where it is installed. Raises UsageError when it finds
    faults."""
    program = shutil.which("fsck.vfat", path=TOOL_PATH)
    if program is None:
        return "not checked: fsck.vfat is not installed"
    with tempfile.TemporaryDirectory(dir=image.parent) as folder, image.open("rb") as file:
        part = Path(folder) / "part"
        file.seek(partition.offset)
        with part.open("wb") as target:
            left = partition.size
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                target.seek(len(chunk), os.SEEK_CUR) if chunk.count(0) == len(chunk) else target.write(chunk)
            target.truncate(target.tell())
        done = subprocess.run([program, "-n", str(part)], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise UsageError(f"the boot partition is not sound after writing: {' '.join(done.stdout.split())[:300]}")
    return "clean"


def make_fat(path: Path, size: int, label: str) -> None:
    """A new file system of `size` bytes in a file. Raises UsageError when it cannot be made."""
    program = shutil.which("mkfs.vfat", path=TOOL_PATH)
    if program is None:
        raise UsageError("mkfs.vfat is not installed; it makes the seed's file system: sudo apt install dosfstools.")
    command = [program, "-C", "-F", "32", "-n", label, str(path), str(size // 1024)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise UsageError(f"the seed {str(path)!r} cannot be made: {' '.join(done.stderr.split())[:200]}")


def _unpacked(raw: BinaryIO, source: Path) -> BinaryIO:
    magic = raw.read(6)
    raw.seek(0)
    packed = next((kind for start, kind in PACKED.items() if magic.startswith(start)), None)
    if packed:
        raise UsageError(f"{str(source)!r} is packed with {packed}; give an .img or an .img.xz.")
    return cast(BinaryIO, lzma.open(raw)) if magic == XZ else raw
