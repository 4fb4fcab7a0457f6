"""Carries a plan out on an image or a card: copy whole, write, read back, compare what must not have changed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime.wire.errors import UsageError
from device_runtime.wire.version import VERSION
from firmware_profiles.flash.boot_files import BootFiles, FolderFiles, ImageFiles
from firmware_profiles.flash.device import Device, check_device
from firmware_profiles.flash.disk_image import Progress, check_file_system, copy_image, hash_outside, make_fat
from firmware_profiles.flash.partition import Partition, find_boot_partition
from firmware_profiles.flash.plan import (
    LOOKED_AT,
    boot_files,
    check_room,
    detect_format,
    is_secret,
    room_for,
    seed_files,
)
from firmware_profiles.flash.seeds import SEED_LABEL
from firmware_profiles.flash.wheelhouse import load

LABEL = "bootfs"
MIB = 1024 * 1024
SEED_BYTES_MIN = 48 * MIB  # what FAT32 needs at the least, and room for the log


def provision_image(
    source: Path, out: Path, device: Device, wheelhouse: Path | None, sha256: str, progress: Progress
) -> dict[str, Any]:
    """A provisioned copy of the image `source` at `out`, or nothing; returns its manifest.

    Raises UsageError when the image is damaged or cut short, is not what `sha256` says, has no boot partition of
    Raspberry Pi OS, or too little room; `out` is then not there.
    """
    check_device(device)
    _check_board(device)
    _check_out(source, out)
    partial = out.with_name(out.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # of a run that was killed
        partial.touch(0o600)  # it will hold secrets
        read_sha = copy_image(source, partial, progress)
        if sha256 and read_sha != sha256.lower():
            raise UsageError(f"{str(source)!r} has the SHA-256 {read_sha}, not the one of --sha256: download it again.")
        partition = find_boot_partition(partial)
        boot = ImageFiles(partial, partition)
        before = hash_outside(partial, partition, "hashing", progress)
        record = write_plan(boot, device, wheelhouse, progress)
        after = hash_outside(partial, partition, "verifying", progress)
        if before != after:
            raise UsageError("bytes outside the boot partition changed; nothing was kept. Please report this.")
        record["checked"] = {
            "read_back": "equal",
            "outside_sha256": after,
            "fsck": check_file_system(partial, partition),
        }
        record["image"] = {
            "source": source.name,
            "source_sha256": read_sha,
            "partition_offset_bytes": partition.offset,
            "partition_size_bytes": partition.size,
        }
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return record


def provision_card(folder: Path, device: Device, wheelhouse: Path | None, progress: Progress) -> dict[str, Any]:
    """Provision a mounted boot partition; returns its manifest. Raises UsageError as provision_image does."""
    check_device(device)
    _check_board(device)
    record = write_plan(FolderFiles(folder), device, wheelhouse, progress)
    record["checked"] = {"read_back": "equal"}
    return record


def provision_seed(out: Path, device: Device, wheelhouse: Path | None, progress: Progress) -> dict[str, Any]:
    """A seed medium for systems with cloud-init that boot from a disk of their own; returns its manifest.

    Raises UsageError as provision_image does; `out` is then not there.
    """
    check_device(device)
    _check_board(device)
    _check_new(out)
    contents = seed_files(device, load(wheelhouse)[1] if wheelhouse else {})
    size = -(-(room_for(contents) + SEED_BYTES_MIN) // MIB) * MIB
    partial = out.with_name(out.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        make_fat(partial, size, SEED_LABEL)
        partial.chmod(0o600)
        boot = ImageFiles(partial, Partition(0, size))
        write_and_read_back(boot, contents, progress)
        record = manifest(device, "seed", contents, boot.free_bytes())
        record["checked"] = {"read_back": "equal", "fsck": check_file_system(partial, Partition(0, size))}
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return record


def write_and_read_back(boot: BootFiles, contents: Mapping[str, bytes], progress: Progress) -> None:
    """Write every file in order, then compare every one. Raises UsageError when one reads back differently."""
    for index, (path, data) in enumerate(contents.items()):
        progress(f"writing {path}", index, len(contents))
        boot.write({path: data})
    for index, (path, data) in enumerate(contents.items()):
        progress(f"reading back {path}", index, len(contents))
        if boot.read(path) != data:
            raise UsageError(f"{path} reads back differently than it was written; is the disk or the card failing?")


def write_plan(boot: BootFiles, device: Device, wheelhouse: Path | None, progress: Progress) -> dict[str, Any]:
    """Look, plan, write, read back."""
    label = boot.label()
    if label is not None and label.lower() != LABEL:
        raise UsageError(
            f"the boot partition is labelled {label!r}, not {LABEL!r}: it is not one of Raspberry Pi OS. "
            "For another system with cloud-init, make a seed: espalier flash seed."
        )
    present = {name: boot.read(name) for name in LOOKED_AT}
    how, python = detect_format(present)
    wheels: Mapping[str, bytes] = {}
    if wheelhouse:
        house, wheels = load(wheelhouse)
        if python and house.python != python:
            raise UsageError(
                f"the image has Python {python}, the wheelhouse {house.python}; gather one with --python {python}."
            )
    contents = boot_files(device, how, present, wheels)
    left = check_room(boot.free_bytes(), contents)
    write_and_read_back(boot, contents, progress)
    return manifest(device, how, contents, left)


def manifest(device: Device, how: str, contents: Mapping[str, bytes], left: int) -> dict[str, Any]:
    """What was done, without secrets and without hashes of them."""
    rows = [
        {"path": path, "size_bytes": len(data)}
        | ({"secret": True} if is_secret(path) else {"sha256": hashlib.sha256(data).hexdigest()})
        for path, data in contents.items()
    ]
    return {
        "schema": 1,
        "espalier": VERSION,
        "name": device.name,
        "board": device.board.id,
        "gateway": f"{device.host}:{device.port}",
        "format": how,
        "free_bytes_left_min": left,
        "files": rows,
    }


def _check_board(device: Device) -> None:
    if device.board.match.architecture != "aarch64":
        raise UsageError(f"--board {device.board.id} takes no image: install espalier-fl there with pip.")


def _check_out(source: Path, out: Path) -> None:
    if not source.is_file():
        raise UsageError(f"the image {str(source)!r} does not exist.")
    _check_new(out)


def _check_new(out: Path) -> None:
    if out.suffix != ".img":
        raise UsageError(f"--out {str(out)!r} must end in .img; pack it afterwards if you like.")
    if out.exists():
        raise UsageError(f"--out {str(out)!r} exists; give another name, or remove it.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: the folder does not exist.")
