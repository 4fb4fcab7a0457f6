"""Where the boot partition of a disk image is, and whether the image is whole: MBR and GPT, read only.

MBR: 16-byte entries from byte 446, types 0x0b, 0x0c and 0x0e are FAT; sectors of 512 bytes. GPT: UEFI specification,
section 5.3. FAT: the label is that of the boot sector; mtools reads the root folder's.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from device_runtime.wire.errors import UsageError

SECTOR = 512
FAT_TYPES = (0x0B, 0x0C, 0x0E)
GPT_PROTECTIVE = 0xEE
GPT_ENTRIES_MAX = 128


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition's place in the image, in bytes."""

    offset: int
    size: int


def find_boot_partition(image: Path) -> Partition:
    """The first FAT partition.

    Raises UsageError when there is none, or when the image ends before its partitions do (it was cut short).
    """
    size = image.stat().st_size
    with image.open("rb") as file:
        partitions = read_partitions(file, str(image))
        end = max(p.offset + p.size for p in partitions)
        if end > size:
            raise UsageError(
                f"the image {str(image)!r} is cut short: it has {size} bytes, and its partitions end at {end}. "
                "Download it again and compare its SHA-256."
            )
        for partition in partitions:
            if is_fat(file, partition):
                return partition
    raise UsageError(f"the image {str(image)!r} has no FAT partition to boot from; is it an image for a board?")


def read_partitions(file: BinaryIO, name: str) -> list[Partition]:
    """All partitions of an MBR or a GPT. Raises UsageError when the image has neither."""
    file.seek(0)
    sector = file.read(SECTOR)
    if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
        raise UsageError(f"{name!r} is not a disk image: its first sector is no partition table.")
    entries = [sector[446 + 16 * i : 462 + 16 * i] for i in range(4)]
    found = [
        (entry[4], Partition(*(SECTOR * v for v in struct.unpack("<II", entry[8:16])))) for entry in entries if entry[4]
    ]
    if any(kind == GPT_PROTECTIVE for kind, _ in found):
        return _gpt(file, name)
    if not found:
        raise UsageError(f"{name!r} has an empty partition table.")
    return [partition for _, partition in found]


def _gpt(file: BinaryIO, name: str) -> list[Partition]:
    file.seek(SECTOR)
    header = file.read(SECTOR)
    if header[:8] != b"EFI PART":
        raise UsageError(f"{name!r} announces a GPT and has none.")
    start, count, width = struct.unpack("<QII", header[72:88])
    if count > GPT_ENTRIES_MAX or not 128 <= width <= 4096:
        raise UsageError(f"{name!r} has a GPT of a size that no image has.")
    found = []
    for index in range(count):
        file.seek(start * SECTOR + index * width)
        entry = file.read(width)
        if len(entry) == width and any(entry[:16]):
            first, last = struct.unpack("<QQ", entry[32:48])
            found.append(Partition(first * SECTOR, (last - first + 1) * SECTOR))
    if not found:
        raise UsageError(f"{name!r} has an empty partition table.")
    return found


def is_fat(file: BinaryIO, partition: Partition) -> bool:
    """Whether a FAT file system's boot sector stands there, whatever the table calls it."""
    file.seek(partition.offset)
    sector = file.read(SECTOR)
    return len(sector) == SECTOR and sector[510:] == b"\x55\xaa" and b"FAT" in (sector[54:59] + sector[82:87])
