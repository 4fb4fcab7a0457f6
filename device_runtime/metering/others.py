"""How much of the processor others took while we measured: other processes here, and the host of a virtual machine.

From the first lines of /proc/stat, which count the time of every core in ticks since the system started.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from device_runtime.metering.system import PROC

_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_COLUMNS = 8  # user nice system idle iowait irq softirq steal; guest time is part of user time


@dataclass(frozen=True, slots=True)
class Ticks:
    """Seconds that all cores together were busy, and that a host gave to others, since the start; and the cores."""

    busy_s: float
    stolen_s: float
    cores: int


def ticks(proc: Path = PROC) -> Ticks | None:
    """The counts now, None where the kernel does not give them."""
    try:
        lines = (proc / "stat").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    words = lines[0].split() if lines else []
    if len(words) <= _COLUMNS or words[0] != "cpu" or not all(w.isdecimal() for w in words[1:]):
        return None
    spent = [int(w) / os.sysconf("SC_CLK_TCK") for w in words[1 : _COLUMNS + 1]]
    busy = sum(spent) - spent[_IDLE] - spent[_IOWAIT] - spent[_STEAL]
    return Ticks(busy, spent[_STEAL], sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines))


def taken_by_others(before: Ticks | None, after: Ticks | None, own_s: float, wall_s: float) -> float | None:
    """Cores that other processes kept busy on average, besides `own_s` seconds of our own."""
    if before is None or after is None or wall_s <= 0:
        return None
    return max(0.0, after.busy_s - before.busy_s - own_s) / wall_s


def stolen(before: Ticks | None, after: Ticks | None, wall_s: float) -> float | None:
    """Cores that the host of this virtual machine gave to others on average."""
    if before is None or after is None or wall_s <= 0:
        return None
    return max(0.0, after.stolen_s - before.stolen_s) / wall_s
