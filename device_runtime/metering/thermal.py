"""Heat and what it does: temperature, throttle and voltage events as differences, governor and clock.

The firmware of a Raspberry Pi latches its events until the next boot (bits 16 to 19), so a run is charged only with
bits that were not latched before it, and with conditions (bits 0 to 3) seen while it ran.
"""

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.metering import system

ROOT = Path("/")
UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = (
    "under-voltage",
    "frequency capped",
    "throttled",
    "soft temperature limit",
)
EVENTS = (UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT)
_VCGENCMD_SECONDS_MAX = 2.0

Vcgencmd = Callable[[str], str | None]


def vcgencmd(question: str) -> str | None:
    """What the firmware of a Raspberry Pi answers, None where there is none or it may not be asked."""
    try:
        answer = subprocess.run(
            ["vcgencmd", question], capture_output=True, text=True, timeout=_VCGENCMD_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout if answer.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Throttling:
    """The firmware's bits, and how often the kernel counted a throttled core; None where there is no such source."""

    bits: int | None = None
    core_events: int | None = None


class Thermometer:
    """Reads below `root`; asks the firmware by `ask` where the kernel does not give its bits."""

    def __init__(self, root: Path = ROOT, ask: Vcgencmd = vcgencmd) -> None:
        self._sys = root / "sys"
        self._ask = ask
        self._has_firmware = True

    def temperature_c(self) -> float | None:
        """The hottest thermal zone."""
        return system.temperature_c(self._sys)

    def frequency_hz(self) -> int | None:
        """The highest clock among the cores, as the kernel believes it."""
        return system.frequency_hz(self._sys)

    def governor(self) -> str:
        """The governors of the cores, "" where there is none."""
        paths = sorted((self._sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        return ", ".join(sorted({text for p in paths if (text := _text(p))}))

    def throttling(self) -> Throttling:
        """The state now; take two, and `events_between` says what happened."""
        return Throttling(self._bits(), self._core_events())

    def _bits(self) -> int | None:
        for place in ("devices/platform/soc/soc:firmware/get_throttled", "devices/platform/firmware/get_throttled"):
            if (text := _text(self._sys / place)) and (bits := _hex(text)) is not None:
                return bits
        if not self._has_firmware:
            return None
        answer = self._ask("get_throttled")
        self._has_firmware = answer is not None
        found = re.search(r"throttled=(0x[0-9a-fA-F]+)", answer or "")
        return int(found[1], 16) if found else None

    def _core_events(self) -> int | None:
        paths = (self._sys / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
        counts = [int(text) for p in paths if (text := _text(p)) and text.isdecimal()]
        return sum(counts) if counts else None


def now(state: Throttling) -> tuple[str, ...]:
    """The conditions that hold at this moment."""
    return tuple(name for i, name in enumerate(EVENTS) if state.bits is not None and state.bits >> i & 1)


def latched(state: Throttling) -> tuple[str, ...]:
    """What happened at any time since the board started."""
    return tuple(name for i, name in enumerate(EVENTS) if state.bits is not None and state.bits >> 16 >> i & 1)


def events_between(states: Iterable[Throttling]) -> tuple[str, ...]:
    """What happened from the first state to the last: newly latched, or holding at one of them.

    >>> events_between([Throttling(bits=0x50000), Throttling(bits=0x50000)])
    ()
    >>> events_between([Throttling(bits=0x50000), Throttling(bits=0xD0008)])
    ('soft temperature limit',)
    """
    seen = list(states)
    found = {name for state in seen for name in now(state)}
    bits = [state.bits for state in seen if state.bits is not None]
    if bits:
        latched = bits[-1] >> 16 & ~(bits[0] >> 16)
        found |= {name for i, name in enumerate(EVENTS) if latched >> i & 1}
    counts = [state.core_events for state in seen if state.core_events is not None]
    if counts and counts[-1] > counts[0]:
        found.add(THROTTLED)
    return tuple(name for name in EVENTS if name in found)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
