"""The look at the machine before a run: which it is, and what of its state may spoil the numbers."""

import importlib.metadata
import os
import platform
from pathlib import Path

from device_runtime.metering.emulation import emulated_by, hypervisor
from device_runtime.metering.memory import memory_use
from device_runtime.metering.system import usable_cores
from device_runtime.metering.thermal import Thermometer, Throttling, latched, now
from device_runtime.profile.record import Machine, Plan, Preflight
from device_runtime.profile.values import measured
from device_runtime.wire.version import VERSION
from firmware_profiles.detect import Detection, detect_board

ROOT = Path("/")
LOAD_PER_CORE_MAX = 0.1
WARM_C = 50.0
_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-training-cpu")


def machine(root: Path = ROOT) -> tuple[Machine, Detection]:
    """Which board, kernel and libraries these are."""
    found = detect_board(root)
    record = Machine(
        board=found.board.id if found.board else "",
        board_certainty=found.certainty,
        model=found.facts.model or found.facts.cpu_model,
        architecture=found.facts.architecture,
        kernel=platform.release(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cores=os.cpu_count() or usable_cores(),
        cores_usable=usable_cores(),
        emulated=emulated_by(root, found.facts.architecture),
        hypervisor=hypervisor(root),
        versions={"espalier": VERSION, "python": platform.python_version()} | _installed(),
    )
    return record, found


def preflight(record: Machine, plan: Plan, threads: int, root: Path = ROOT) -> Preflight:
    """The state now, and doubts about it."""
    thermometer, memory = Thermometer(root), memory_use(root / "proc")
    state = thermometer.throttling()
    load, warmth = _load(root), thermometer.temperature_c()
    governor = thermometer.governor()
    return Preflight(
        governor=governor,
        load_1min=measured(load, "1", reason="no /proc/loadavg"),
        temperature=measured(warmth, "°C", reason="no thermal zone in /sys/class/thermal"),
        frequency=measured(thermometer.frequency_hz(), "Hz", reason="no cpufreq in /sys/devices/system/cpu"),
        events=now(state),
        swap_used=measured(memory.swap_used, "B", reason="no swap in /proc/meminfo"),
        memory_available=measured(memory.available, "B", reason="no MemAvailable in /proc/meminfo"),
        doubts=tuple(doubts(record, plan, threads, load, warmth, governor, memory.swap_used, state)),
    )


def doubts(
    record: Machine, plan: Plan, threads: int, load: float | None, warmth: float | None, governor: str,
    swap_used: int | None, state: Throttling,
) -> list[str]:  # fmt: skip
    """What may spoil the numbers, a sentence each with what to do."""
    found = []
    if record.emulated:
        found.append(f"the processor is emulated ({record.emulated}): times mean nothing")
    if record.hypervisor:
        found.append(f"this is a virtual machine ({record.hypervisor}): others may take its time")
    if load is not None and load > LOAD_PER_CORE_MAX * record.cores_usable:
        found.append(f"the load is {load:.1f} on {record.cores_usable} cores: stop other work")
    if warmth is not None and warmth > WARM_C:
        found.append(f"the processor is {warmth:.0f} °C warm before the run: let it cool below {WARM_C:.0f} °C")
    if governor and governor != "performance":
        found.append(f"the governor is {governor!r}: set 'performance' for numbers to publish")
    if swap_used:
        found.append(f"{swap_used / 1e6:.0f} MB are swapped out: steps may wait for the disk")
    if conditions := now(state):
        found.append(f"the firmware reports: {', '.join(conditions)}")
    if before := latched(state):
        found.append(f"the firmware has latched {', '.join(before)} before: reboot, or the run cannot see it anew")
    if threads > record.cores_usable:
        found.append(f"{threads} threads share {record.cores_usable} cores")
    if plan.is_quick:
        found.append("the run is quick: repeats are shorter than numbers to publish need")
    return found


def _load(root: Path) -> float | None:
    try:
        return float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _installed() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
