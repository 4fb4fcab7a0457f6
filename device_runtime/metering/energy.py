"""Energy from whatever sensor the board has: RAPL, an INA2xx in the supply line, the Pi 5's PMIC, or none.

RAPL and INA2xx are measured; the PMIC's sum of rails with a fitted correction is estimated. A sensor that only gives
power is sampled by a thread and integrated by trapezoids.
"""

import itertools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from device_runtime.metering.thermal import Vcgencmd, vcgencmd

ROOT = Path("/")
_INA = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina260", "ina3221")
_HWMON_INTERVAL_S, _PMIC_INTERVAL_S = 0.02, 0.25
_TOTAL = ("VDD_IN", "POM_5V_IN")  # the channel of an INA3221 that feeds the whole board

Kind = Literal["measured", "estimated"]
Watts = Callable[[], float | None]


class Meter(Protocol):
    """Counts energy between `start` and `stop`."""

    name: str
    kind: Kind

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float | None:
        """Joules since `start`, None where the sensor failed in between."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Correction of a sum of rails to the whole board: slope × W + offset."""

    slope: float = 1.0
    offset: float = 0.0


def find_meter(root: Path = ROOT, fit: Fit | None = None, ask: Vcgencmd = vcgencmd) -> tuple[Meter | None, str]:
    """The best sensor here and its name, or None and the reason there is none."""
    reasons = []
    domains, reason = _rapl(root)
    if domains:
        return RaplMeter(domains), "RAPL"
    reasons.append(reason)
    if found := _ina(root):
        return SampledMeter(found[0], "measured", found[1], _HWMON_INTERVAL_S), found[0]
    reasons.append("no INA2xx in /sys/class/hwmon")
    chosen = fit or Fit()
    if pmic_watts(ask("pmic_read_adc"), chosen) is not None:
        fitted = f", fitted: {chosen.slope:g} W/W + {chosen.offset:g} W" if fit else ", rails only"
        meter = SampledMeter(
            f"PMIC{fitted}", "estimated", lambda: pmic_watts(ask("pmic_read_adc"), chosen), _PMIC_INTERVAL_S
        )
        return meter, meter.name
    reasons.append("no PMIC that vcgencmd can read")
    return None, "; ".join(reasons)


# --- RAPL ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """A RAPL package: a counter in µJ that wraps at `range_uj`."""

    path: Path
    range_uj: int


class RaplMeter:
    """The processor packages, by the kernel's powercap interface."""

    name = "RAPL"
    kind: Kind = "measured"

    def __init__(self, domains: list[Domain]) -> None:
        self._domains = domains
        self._before: list[int | None] = []

    def start(self) -> None:
        """Begin."""
        self._before = [_integer(d.path) for d in self._domains]

    def stop(self) -> float | None:
        """Joules since `start`, of all packages."""
        total = 0
        for domain, before in zip(self._domains, self._before, strict=True):
            after = _integer(domain.path)
            if before is None or after is None:
                return None
            total += after - before if after >= before else after - before + domain.range_uj
        return total / 1e6


def _rapl(root: Path) -> tuple[list[Domain], str]:
    """The packages; sub-domains and the platform domain would count the same joules twice."""
    domains, reason = [], "no RAPL in /sys/class/powercap"
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if folder.name.count(":") != 1 or not (_text(folder / "name") or "").startswith("package"):
            continue
        if _integer(folder / "energy_uj") is None:
            reason = "RAPL's energy_uj can be read by root only"
            continue
        domains.append(Domain(folder / "energy_uj", _integer(folder / "max_energy_range_uj") or 2**32))
    return domains, reason


# --- sensors of power ---------------------------------------------------------------------------------------------


class SampledMeter:
    """A sensor that gives watts, read every `interval_s` by a thread of its own."""

    def __init__(self, name: str, kind: Kind, watts: Watts, interval_s: float) -> None:
        self.name, self.kind = name, kind
        self._watts, self._interval_s = watts, interval_s
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._samples, self._stop = [], threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        watts = self._watts()
        if watts is not None:
            self._samples.append((time.perf_counter(), watts))

    def stop(self) -> float | None:
        """Joules since `start`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()
        return integral(self._samples)


def integral(samples: list[tuple[float, float]]) -> float | None:
    """The area under (seconds, watts) by trapezoids, None of fewer than two samples.

    >>> integral([(0.0, 2.0), (1.0, 4.0)])
    3.0
    """
    if len(samples) < 2:
        return None
    return sum(
        (later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in itertools.pairwise(samples)
    )


def _ina(root: Path) -> tuple[str, Watts] | None:
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        chip = _text(folder / "name")
        if chip not in _INA:
            continue
        if _integer(folder / "power1_input") is not None:
            return chip, lambda: _scaled(folder / "power1_input", 1e-6)  # noqa: B023  # returned at once
        channel = next((c for c in "123" if (_text(folder / f"in{c}_label") or "") in _TOTAL), "1")
        volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        if _integer(volts) is not None and _integer(amperes) is not None:
            return chip, lambda: _product(volts, amperes)  # noqa: B023  # returned at once
    return None


def _product(millivolts: Path, milliamperes: Path) -> float | None:
    volts, amperes = _scaled(millivolts, 1e-3), _scaled(milliamperes, 1e-3)
    return None if volts is None or amperes is None else volts * amperes


def pmic_watts(answer: str | None, fit: Fit) -> float | None:
    """The board's power from `vcgencmd pmic_read_adc`: volts times amperes of every rail that has both, corrected.

    >>> round(pmic_watts(" A_A current(0)=2.0A\\n A_V volt(8)=1.5V\\n EXT5V_V volt(24)=5.1V", Fit(1.1, 0.5)), 6)
    3.8
    """
    found = re.findall(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]", answer or "")
    rails: dict[str, dict[str, float]] = {}
    for rail, quantity, number in found:
        rails.setdefault(rail, {})[quantity] = float(number)
    products = [r["A"] * r["V"] for r in rails.values() if len(r) == 2]
    return fit.slope * sum(products) + fit.offset if products else None


def _scaled(path: Path, factor: float) -> float | None:
    value = _integer(path)
    return None if value is None else value * factor


def _integer(path: Path) -> int | None:
    try:
        return int((_text(path) or "").strip())
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
