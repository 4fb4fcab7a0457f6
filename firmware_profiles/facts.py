"""What a machine says of itself: device tree, /proc/cpuinfo and /sys, read below any root so that captured trees serve.

What is not there is None or empty; nothing here guesses.
"""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
_MIDR = "sys/devices/system/cpu/cpu{}/regs/identification/midr_el1"


@dataclass(frozen=True, slots=True)
class Facts:
    """One machine. `midr` holds implementer and part of every core, e.g. "0x41:0xd0b"; `hypervisor` says what
    emulates or hosts it, None where nothing shows."""

    architecture: str
    model: str = ""
    compatible: tuple[str, ...] = ()
    midr: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    cpu_model: str = ""
    memory_bytes: int | None = None
    hypervisor: str | None = None


def read_facts(root: Path = Path("/"), architecture: str | None = None) -> Facts:
    """The facts below `root`; `architecture` (aarch64, x86_64, armv7l…) is this machine's unless given."""
    blocks = _cpuinfo(root)
    tree = next((root / t for t in _TREES if (root / t / "compatible").is_file()), None)
    model = _strings(tree / "model") if tree else ()
    compatible = _strings(tree / "compatible") if tree else ()
    first = blocks[0] if blocks else {}
    features = tuple((first.get("Features") or first.get("flags") or "").split())
    return Facts(
        architecture=architecture or platform.machine(),
        model=model[0] if model else next((b["Model"] for b in blocks if "Model" in b), ""),
        compatible=compatible,
        midr=_midr(root, blocks),
        features=features,
        cpu_model=first.get("model name", ""),
        memory_bytes=memory_bytes(root),
        hypervisor=_hypervisor(root, compatible, features),
    )


def memory_bytes(root: Path = Path("/"), field: str = "MemTotal") -> int | None:
    """A size of /proc/meminfo in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_text(path: Path) -> str | None:
    """A small file's text, None where it is not or may not be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def _strings(path: Path) -> tuple[str, ...]:
    """A property of a device tree: strings that end with zero bytes."""
    return tuple(s for s in (read_text(path) or "").split("\0") if s)


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo; the last may be the board's (`Model`, `Serial`)."""
    blocks = []
    for block in re.split(r"\n\s*\n", (read_text(root / "proc/cpuinfo") or "").strip()):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        if fields := {name.strip(): value.strip() for name, _, value in pairs}:
            blocks.append(fields)
    return blocks


def _midr(root: Path, blocks: list[dict[str, str]]) -> tuple[str, ...]:
    found = tuple(
        f"{b['CPU implementer'].lower()}:{b['CPU part'].lower()}"
        for b in blocks
        if "CPU implementer" in b and "CPU part" in b
    )
    if found:
        return found
    values = []
    for index in range(256):
        text = read_text(root / _MIDR.format(index))
        if text is None:
            break
        register = int(text.strip(), 16)
        values.append(f"0x{register >> 24 & 0xFF:02x}:0x{register >> 4 & 0xFFF:03x}")
    return tuple(values)


def _hypervisor(root: Path, compatible: tuple[str, ...], features: tuple[str, ...]) -> str | None:
    if "linux,dummy-virt" in compatible:
        return "QEMU virt machine"
    if vendor := (read_text(root / "sys/hypervisor/type") or "").strip():
        return vendor
    vendor = (read_text(root / "sys/class/dmi/id/sys_vendor") or "").strip()
    if "QEMU" in vendor or "hypervisor" in features:
        return vendor or "a hypervisor"
    return None
