"""Hardware counters of this process and all its threads, by perf_event_open through ctypes.

One file descriptor per event and per PMU (a group cannot be read with inherit=1), opened before the engine's session so
that its worker threads inherit them. User space only, which the kernel's default perf_event_paranoid = 2 allows. A
counter that the kernel refuses, or that stays at zero, is absent with the reason. When the kernel shares counters among
more events than the core has, counts are scaled by enabled over running time, and say so.

ASE_SPEC and VFP_SPEC of ARM cores are speculated SIMD and floating-point *instructions*, integer SIMD among them: an
upper bound on the work, never FLOPs.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path("/")
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _SOFTWARE, _CACHE = 0, 1, 3
_L1D_READ_MISS = 0 | 0 << 8 | 1 << 16
_FORMAT_TIMES = 0b11  # value, time enabled, time running
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_ATTRIBUTE_BYTES = 112
_CLOSE_ON_EXEC = 8

# Not context switches: they happen in the kernel, which is excluded; getrusage has them.
_SOFTWARE_EVENTS = {"task_clock_ns": 1, "page_faults": 2}
HARDWARE = ("instructions", "cycles", "cache_misses", "l1d_refills", "l2d_refills", "ase_spec", "vfp_spec")
_GENERIC = {"instructions": (_HARDWARE, 1), "cycles": (_HARDWARE, 0), "cache_misses": (_HARDWARE, 3)}
_GENERIC |= {"l1d_refills": (_CACHE, _L1D_READ_MISS)}
_ARM = {"instructions": 0x08, "cycles": 0x11, "l1d_refills": 0x03, "l2d_refills": 0x17}
_ARM_SPECULATED = {"ase_spec": 0x74, "vfp_spec": 0x75}
_NO_SPECULATED = ("cortex_a53", "cortex_a35", "cortex_a55")  # their event tables have no such events
_WHY = {
    errno.EACCES: "not permitted: perf_event_paranoid is {paranoid}; it must be 2 or less, or give CAP_PERFMON",
    errno.EPERM: "not permitted: perf_event_paranoid is {paranoid}; it must be 2 or less, or give CAP_PERFMON",
    errno.ENOENT: "the processor, or the virtual machine, has no such counter",
    errno.EOPNOTSUPP: "the processor, or the virtual machine, has no such counter",
    errno.ENODEV: "the processor, or the virtual machine, has no such counter",
    errno.ENOSYS: "this kernel, or the container, has no perf_event_open",
    errno.EINVAL: "the kernel does not know this event",
    errno.EMFILE: "too many open files",
}

Open = Callable[[bytes], int]  # the attribute's bytes -> a descriptor, or a negative errno


@dataclass(frozen=True, slots=True)
class Event:
    """One counter to open: `kind` and `config` as perf_event_attr has them."""

    name: str
    kind: int
    config: int


@dataclass(frozen=True, slots=True)
class Count:
    """A running count. `is_scaled`: the counter was shared, and the count is an extrapolation."""

    value: int
    is_scaled: bool = False


def events_of(root: Path = ROOT, machine: str | None = None) -> list[Event]:
    """The events to ask for: of every core PMU that the kernel lists, generic ones where it lists none."""
    found = [Event(name, _SOFTWARE, config) for name, config in _SOFTWARE_EVENTS.items()]
    devices = root / "sys/bus/event_source/devices"
    if (machine or platform.machine()) == "aarch64":
        for pmu, kind in _pmus(devices, "armv8_*"):
            events = _ARM | ({} if any(core in pmu for core in _NO_SPECULATED) else _ARM_SPECULATED)
            found += [Event(name, kind, config) for name, config in events.items()]
        return found
    hybrid = _pmus(devices, "cpu_*")  # cores of two kinds: the PMU's number goes into the upper half of config
    for name, (kind, config) in _GENERIC.items():
        found += [Event(name, kind, config | pmu << 32) for _, pmu in hybrid] or [Event(name, kind, config)]
    return found


def _pmus(devices: Path, pattern: str) -> list[tuple[str, int]]:
    pmus = []
    for folder in sorted(devices.glob(pattern)):
        try:
            pmus.append((folder.name, int((folder / "type").read_text())))
        except (OSError, ValueError):
            continue
    return pmus


class Counters:
    """Counters open from here until closed. `absent` tells the reason for each that could not be opened."""

    def __init__(self, root: Path = ROOT, machine: str | None = None, open_event: Open | None = None) -> None:
        machine = machine or platform.machine()
        call = open_event or _open_event(machine)
        self._descriptors: list[tuple[str, int]] = []
        self.absent: dict[str, str] = {}
        for event in events_of(root, machine):
            answer = call(attribute(event))
            if answer >= 0:
                self._descriptors.append((event.name, answer))
            else:
                self.absent[event.name] = _reason(-answer, root)
        for name, _ in self._descriptors:
            self.absent.pop(name, None)
        if machine == "aarch64" and not _pmus(root / "sys/bus/event_source/devices", "armv8_*"):
            self.absent |= dict.fromkeys([*_ARM, *_ARM_SPECULATED], "the kernel lists no PMU of the cores")

    def read(self) -> dict[str, Count]:
        """All counts since the counters were opened, of every thread, summed over the PMUs."""
        found: dict[str, Count] = {}
        for name, descriptor in self._descriptors:
            one = decode(os.read(descriptor, 24))
            before = found.get(name, Count(0))
            found[name] = Count(before.value + one.value, before.is_scaled or one.is_scaled)
        return found

    def close(self) -> None:
        """Give the descriptors back."""
        for _, descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def __enter__(self) -> "Counters":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def difference(before: Mapping[str, Count], after: Mapping[str, Count]) -> dict[str, Count]:
    """What was counted between two readings."""
    return {
        name: Count(max(0, count.value - before[name].value), count.is_scaled or before[name].is_scaled)
        for name, count in after.items()
        if name in before
    }


def attribute(event: Event) -> bytes:
    """perf_event_attr of an event: this process, threads inherited, user space only."""
    flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
    head = struct.pack("=IIQQQQQ", event.kind, _ATTRIBUTE_BYTES, event.config, 0, 0, _FORMAT_TIMES, flags)
    return head.ljust(_ATTRIBUTE_BYTES, b"\0")


def decode(data: bytes) -> Count:
    """A reading of value, time enabled, time running; scaled up where the counter did not always run."""
    value, enabled, running = struct.unpack("=QQQ", data)
    if running == 0 or running >= enabled:
        return Count(value)
    return Count(value * enabled // running, is_scaled=True)


def _open_event(machine: str) -> Open:
    number = _SYSCALL.get(machine)
    if number is None:
        return lambda _attribute: -errno.ENOSYS
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long

    def call(data: bytes) -> int:
        buffer = ctypes.create_string_buffer(data, len(data))
        this_process, any_cpu, no_group = ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1)
        found = library.syscall(
            ctypes.c_long(number), buffer, this_process, any_cpu, no_group, ctypes.c_ulong(_CLOSE_ON_EXEC)
        )
        return int(found) if found >= 0 else -ctypes.get_errno()

    return call


def _reason(number: int, root: Path) -> str:
    try:
        paranoid = (root / "proc/sys/kernel/perf_event_paranoid").read_text().strip()
    except OSError:
        paranoid = "unknown"
    return _WHY.get(number, f"the kernel refused: {os.strerror(number)}").format(paranoid=paranoid)
