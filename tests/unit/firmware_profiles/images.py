"""Synthetic images with the geometry of official ones: MBR, FAT32 from sector 16384 with one sector per cluster and the
label bootfs, a root partition behind it. Their boot files are constructed, not copied."""

import shutil
import struct
import subprocess
from pathlib import Path

SECTOR, FIRST = 512, 16384
MIB = 1024 * 1024
CMDLINE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4c4e106f-02 rootfstype=ext4 fsck.repair=yes rootwait resize\n"
)
TRIXIE = {
    "cmdline.txt": CMDLINE,
    "config.txt": "arm_64bit=1\n",
    "issue.txt": "Raspberry Pi reference 2026-06-18\n",
    "user-data": "#cloud-config\n# example\n",
    "meta-data": "dsmode: local\ninstance_id: rpios-image\n",
    "network-config": "# example\n",
    "kernel8.img": "not a kernel\n" * 1000,
}
BOOKWORM = {
    "cmdline.txt": CMDLINE.replace("resize", "quiet init=/usr/lib/raspberrypi-sys-mods/firstboot"),
    "config.txt": "arm_64bit=1\n",
    "issue.txt": "Raspberry Pi reference 2025-05-13\n",
    "kernel8.img": "not a kernel\n" * 1000,
}
TOOLS = ("mkfs.vfat", "mcopy", "mdir", "fsck.vfat")
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]


def tool(name: str, *arguments: str) -> str:
    """Run one of the tools, and give what it says."""
    program = shutil.which(name, path=PATH)
    assert program, name
    environ = {"MTOOLS_SKIP_CHECK": "1", "PATH": PATH}
    return subprocess.run(
        [program, *arguments], check=True, capture_output=True, text=True, timeout=60, env=environ
    ).stdout


def make_image(path: Path, files: dict[str, str], *, boot_mib: int = 160, label: str = "bootfs") -> Path:
    """An image with `files` on its boot partition."""
    boot, root = boot_mib * MIB // SECTOR, 4 * MIB // SECTOR
    entries = [(0x0C, FIRST, boot), (0x83, FIRST + boot, root)]
    table = b"".join(struct.pack("<B3xB3xII", 0, kind, start, size) for kind, start, size in entries)
    with path.open("wb") as file:
        file.write(bytes(440) + b"\x6f\x10\x4e\x4c\0\0" + table.ljust(64, b"\0") + b"\x55\xaa")
        file.seek((FIRST + boot) * SECTOR)
        file.write(b"root file system " * 1000)
        file.truncate((FIRST + boot + root) * SECTOR)
    where = ("--offset", str(FIRST), str(path), str(boot // 2))
    tool("mkfs.vfat", "-F", "32", "-s", "1", "-n", label, *where)
    for name, text in files.items():
        source = path.with_name("staged")
        source.write_text(text)
        tool("mcopy", "-i", f"{path}@@{FIRST * SECTOR}", str(source), f"::/{name}")
    return path


def read_back(image: Path, name: str) -> bytes:
    """A file of the boot partition, by mcopy."""
    copy = image.with_name("read-back")
    copy.unlink(missing_ok=True)
    tool("mcopy", "-n", "-i", f"{image}@@{FIRST * SECTOR}", f"::/{name}", str(copy))
    return copy.read_bytes()


def fsck(image: Path, boot_mib: int = 160) -> None:
    """fsck.vfat on a copy of the boot partition; raises when it finds a fault."""
    part = image.with_name("part")
    with image.open("rb") as file:
        file.seek(FIRST * SECTOR)
        part.write_bytes(file.read(boot_mib * MIB))
    tool("fsck.vfat", "-n", str(part))
    part.unlink()
