"""All instruments of a case around one repeat: counters, energy, heat and clock, read outside the timed steps."""

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.metering.counters import HARDWARE, Count, Counters, difference
from device_runtime.metering.energy import Meter
from device_runtime.metering.memory import MemoryUse, memory_use
from device_runtime.metering.others import Ticks, stolen, taken_by_others, ticks
from device_runtime.metering.thermal import Thermometer, Throttling, events_between
from device_runtime.profile.record import Energy, Memory, Repeat
from device_runtime.profile.values import Source, Value, absent, derived, labelled, measured


@dataclass(frozen=True, slots=True)
class Before:
    """What the instruments said when a repeat began."""

    cooled_seconds: float
    temperature: Value
    frequency: Value
    throttling: Throttling
    counts: dict[str, Count]
    ticks: Ticks | None
    wall_ns: int
    cpu_ns: int


class Instruments:
    """The instruments that this board has. `meter_note` is the sensor's name, or why there is none."""

    def __init__(self, thermometer: Thermometer, meter: Meter | None, meter_note: str, counters: Counters) -> None:
        self.thermometer, self.meter, self.meter_note, self.counters = thermometer, meter, meter_note, counters

    def begin(self, cooled_seconds: float) -> Before:
        """Read everything; the clocks last, so that reading is not timed."""
        temperature, frequency = self.temperature(), self.frequency()
        throttling = self.thermometer.throttling()
        if self.meter is not None:
            self.meter.start()
        counts, spent = self._counts(), ticks()
        clocks = time.perf_counter_ns(), time.process_time_ns()
        return Before(cooled_seconds, temperature, frequency, throttling, counts, spent, *clocks)

    def end(self, before: Before, step_ns: tuple[int, ...]) -> Repeat:
        """Read everything again; the clocks first."""
        wall_ns = time.perf_counter_ns() - before.wall_ns
        cpu_ns = time.process_time_ns() - before.cpu_ns
        spent, wall_s, unknown = ticks(), wall_ns / 1e9, "no /proc/stat"
        counted = difference(before.counts, self._counts())
        joules = self.meter.stop() if self.meter is not None else None
        kind = self.meter.kind if self.meter is not None else "measured"
        return Repeat(
            step_ns=step_ns,
            wall_ns=wall_ns,
            cpu_ns=cpu_ns,
            cooled_seconds=before.cooled_seconds,
            temperature_start=before.temperature,
            temperature_end=self.temperature(),
            frequency_start=before.frequency,
            frequency_end=self.frequency(),
            events=events_between([before.throttling, self.thermometer.throttling()]),
            others=measured(taken_by_others(before.ticks, spent, cpu_ns / 1e9, wall_s), "cores", reason=unknown),
            stolen=measured(stolen(before.ticks, spent, wall_s), "cores", reason=unknown),
            energy=labelled(kind, joules, "J", reason=self.meter_note),
            counters=self._labelled(counted),
        )

    def temperature(self) -> Value:
        """The hottest zone now."""
        return measured(self.thermometer.temperature_c(), "°C", reason="no thermal zone in /sys/class/thermal")

    def frequency(self) -> Value:
        """The highest clock now."""
        return measured(self.thermometer.frequency_hz(), "Hz", reason="no cpufreq in /sys/devices/system/cpu")

    def idle_watts(self, seconds: float) -> float | None:
        """Mean power while this process does nothing."""
        if self.meter is None:
            return None
        begin = time.perf_counter()
        self.meter.start()
        time.sleep(seconds)
        joules = self.meter.stop()
        return None if joules is None else joules / (time.perf_counter() - begin)

    def _counts(self) -> dict[str, Count]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return self.counters.read() | {
            "context_switches_voluntary": Count(usage.ru_nvcsw),
            "context_switches_forced": Count(usage.ru_nivcsw),
        }

    def _labelled(self, counted: Mapping[str, Count]) -> dict[str, Value]:
        found = {name: absent("1", reason) for name, reason in self.counters.absent.items()}
        for name, count in counted.items():
            if count.value == 0 and name in HARDWARE:
                found[name] = absent("1", "the counter was opened and counted nothing")
            elif count.is_scaled:
                found[name] = derived(count.value, "1", "extrapolated: more events than the core has counters")
            else:
                found[name] = measured(count.value, "1")
        return found


def per_step(repeats: tuple[Repeat, ...]) -> dict[str, Value]:
    """Counters divided by steps, over all repeats; absent as soon as one repeat lacks the counter."""
    steps = sum(len(r.step_ns) for r in repeats)
    found = {}
    for name, first in repeats[0].counters.items():
        readings = [r.counters[name] for r in repeats]
        numbers = [r.value for r in readings if r.value is not None]
        if len(numbers) < len(readings):
            lacking = next(r for r in readings if r.value is None)
            found[name] = absent("1/step", lacking.note)
        else:
            found[name] = derived(sum(numbers) / steps, "1/step", first.note)
    return found


def energy(repeats: tuple[Repeat, ...], sensor: str, before: float | None, after: float | None) -> Energy:
    """Gross and net joules per step; idle power is the mean of that before and that after the repeats."""
    kind = repeats[0].energy.source if repeats[0].energy.value is not None else "absent"
    joules = [r.energy.value for r in repeats if r.energy.value is not None]
    steps, seconds = sum(len(r.step_ns) for r in repeats), sum(r.wall_ns for r in repeats) / 1e9
    gross = sum(joules) if len(joules) == len(repeats) else None
    idle = None if before is None or after is None else (before + after) / 2
    net = None if gross is None or idle is None else gross - idle * seconds
    of_kind: Source = "estimated" if kind == "estimated" else "derived"
    return Energy(
        sensor=sensor,
        idle_power=labelled(of_kind, idle, "W", "mean of before and after", reason=sensor),
        gross_per_step=labelled(of_kind, None if gross is None else gross / steps, "J/step", reason=sensor),
        net_per_step=labelled(of_kind, None if net is None else net / steps, "J/step", "less idle", reason=sensor),
    )


def memory(before: MemoryUse, proc: Path = Path("/proc")) -> Memory:
    """This process's memory now, and the system's swap before and now."""
    use = memory_use(proc)
    lacking = "the kernel has no smaps_rollup"
    return Memory(
        pss=measured(use.pss, "B", reason=lacking),
        pss_anonymous=measured(use.pss_anonymous, "B", reason="smaps_rollup has no Pss_Anon on this kernel"),
        swap_pss=measured(use.swap_pss, "B", reason=lacking),
        rss_peak=measured(use.rss_peak, "B", "since the process started", reason="no VmHWM in /proc/self/status"),
        swap_used_before=measured(before.swap_used, "B", "of the whole system", reason="no swap in /proc/meminfo"),
        swap_used_after=measured(use.swap_used, "B", "of the whole system", reason="no swap in /proc/meminfo"),
    )
