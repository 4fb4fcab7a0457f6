"""What the system says of this process and this board; a value it does not give is None, never a guess."""

import os
import resource
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def rss_bytes(proc: Path = PROC) -> int | None:
    """Resident memory of this process now."""
    return _status_bytes(proc, "VmRSS")


def rss_peak_bytes(proc: Path = PROC) -> int | None:
    """Peak resident memory of this process since it started."""
    peak = _status_bytes(proc, "VmHWM")
    return peak if peak is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pss_bytes(proc: Path = PROC) -> int | None:
    """Proportional set size (shared pages divided among their users), where the kernel gives it."""
    return _field_kib(proc / "self" / "smaps_rollup", "Pss")


def temperature_c(sys: Path = SYS) -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    zones = [_integer(p) for p in sorted((sys / "class" / "thermal").glob("thermal_zone*/temp"))]
    return max((z / 1000 for z in zones if z is not None), default=None)


def frequency_hz(sys: Path = SYS) -> int | None:
    """The highest current clock among the cores."""
    paths = sorted((sys / "devices" / "system" / "cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    values = [_integer(p) for p in paths]
    return max((v * 1000 for v in values if v is not None), default=None)


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _status_bytes(proc: Path, field: str) -> int | None:
    return _field_kib(proc / "self" / "status", field)


def _field_kib(path: Path, field: str) -> int | None:
    """A line `Field:   123 kB` of a proc file, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == field and rest.split():
            return int(rest.split()[0]) * 1024
    return None


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
