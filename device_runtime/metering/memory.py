"""How much memory a process really takes: its proportional share, what of it is swapped, and the system's swap.

Reading smaps walks the page tables, so it is asked for outside timed regions only.
"""

from dataclasses import dataclass
from pathlib import Path

from device_runtime.metering.system import PROC


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes, None where the kernel does not say."""

    pss: int | None
    pss_anonymous: int | None
    swap_pss: int | None
    rss_peak: int | None
    swap_used: int | None
    available: int | None


def memory_use(proc: Path = PROC) -> MemoryUse:
    """This process and this system now."""
    rollup = _kib_fields(proc / "self" / "smaps_rollup")
    status = _kib_fields(proc / "self" / "status")
    system = _kib_fields(proc / "meminfo")
    total, free = system.get("SwapTotal"), system.get("SwapFree")
    return MemoryUse(
        pss=rollup.get("Pss"),
        pss_anonymous=rollup.get("Pss_Anon"),
        swap_pss=rollup.get("SwapPss"),
        rss_peak=status.get("VmHWM"),
        swap_used=None if total is None or free is None else total - free,
        available=system.get("MemAvailable"),
    )


def _kib_fields(path: Path) -> dict[str, int]:
    """The lines `Field:   123 kB` of a proc file, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    fields = {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
            fields[name] = int(words[0]) * 1024
    return fields
