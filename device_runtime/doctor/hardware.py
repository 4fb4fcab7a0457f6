"""Is the machine fit to train: clock, memory and its limits, heat, throttling, supply."""

import re
from pathlib import Path

from device_runtime.doctor.finding import Finding, Patient, not_checked
from device_runtime.metering.system import temperature_c
from firmware_profiles.facts import memory_bytes, read_text

MIB = 1024 * 1024
MEMORY_FREE_MIN, MEMORY_FREE_GOOD = 96 * MIB, 256 * MIB
CLOCK_REMEDY = "sudo systemctl enable --now systemd-timesyncd systemd-time-wait-sync"
COMMAND_LINES = ("boot/firmware/cmdline.txt", "boot/cmdline.txt")
THROTTLED_FILES = (
    "sys/devices/platform/soc/*firmware*/get_throttled",
    "sys/devices/platform/*/*firmware*/get_throttled",
)
SUPPLY = "use the board's own power supply and a short cable; then: vcgencmd get_throttled"
COOL = "give it a cooler or more air; then: vcgencmd measure_temp"
# Bit of get_throttled: what it says, and what mends it. The same bit + 16 says "since boot".
BITS = {
    0: ("under-voltage", SUPPLY),
    1: ("the clock is capped", SUPPLY),
    2: ("throttled", COOL),
    3: ("the soft temperature limit is reached", COOL),
}


def check_clock(patient: Patient) -> list[Finding]:
    """The clock is set by a time server, and not before this software was made."""
    made = Path(__file__).stat().st_mtime
    if patient.now() < made - 86400:
        return [Finding("clock", "failed", "the clock stands before this software was installed", CLOCK_REMEDY)]
    if (patient.root / "run/systemd/timesync/synchronized").exists():
        return [Finding("clock", "ok", "synchronised by systemd-timesyncd")]
    answer = patient.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"]) if patient.live else None
    if answer is None or answer.out.strip() not in ("yes", "no"):
        return not_checked("clock", "nothing here tells whether a time server sets it", CLOCK_REMEDY)
    if answer.out.strip() == "yes":
        return [Finding("clock", "ok", "synchronised")]
    found = "no time server sets it; certificates are judged by it"
    return [Finding("clock", "warning", found, CLOCK_REMEDY)]


def check_memory(patient: Patient) -> list[Finding]:
    """Enough memory is free."""
    total, free = memory_bytes(patient.root), memory_bytes(patient.root, "MemAvailable")
    swap = memory_bytes(patient.root, "SwapTotal")
    if total is None or free is None:
        return not_checked("memory", "/proc/meminfo tells none")
    words = f"{free // MIB} MiB of {total // MIB} MiB free, swap {0 if swap is None else swap // MIB} MiB"
    remedy = "stop other programs (ps aux --sort=-rss | head), or use a smaller model"
    if free < MEMORY_FREE_MIN:
        return [Finding("memory", "failed", words, remedy)]
    return [Finding("memory", "warning", words, remedy) if free < MEMORY_FREE_GOOD else Finding("memory", "ok", words)]


def check_memory_cgroup(patient: Patient) -> list[Finding]:
    """Memory limits of services work: Raspberry Pi OS turns them off on the kernel's command line."""
    controllers = read_text(patient.root / "sys/fs/cgroup/cgroup.controllers")
    if controllers is not None and "memory" in controllers.split():
        return [Finding("memory cgroup", "ok", "memory limits of services work")]
    old = re.search(r"^memory\s+\d+\s+\d+\s+(\d)$", read_text(patient.root / "proc/cgroups") or "", re.MULTILINE)
    if controllers is None and old and old[1] == "1":
        return [Finding("memory cgroup", "ok", "memory limits work (cgroup version 1)")]
    command_line = next((c for c in COMMAND_LINES if (patient.root / c).is_file()), None)
    if controllers is None and command_line is None:
        return not_checked("memory cgroup", "/sys/fs/cgroup is not mounted here")
    found = "off: MemoryMax of the service has no effect, and a large model can freeze the board"
    if command_line is None:
        return [Finding("memory cgroup", "warning", found, "add cgroup_enable=memory to the kernel's command line")]
    text = read_text(patient.root / command_line) or ""
    if "cgroup_enable=memory" in text:
        return [Finding("memory cgroup", "warning", f"{found}; {command_line} enables it", "sudo reboot")]
    remedy = f"sudo sed -i '1s/$/ cgroup_enable=memory/' /{command_line} && sudo reboot"
    return [Finding("memory cgroup", "warning", found, remedy)]


def check_temperature(patient: Patient) -> list[Finding]:
    """The board is cool enough not to slow down."""
    now = temperature_c(patient.root / "sys")
    if now is None:
        return not_checked("temperature", "this machine tells none")
    board = patient.detection.board
    limit = board.limits.temperature_max.value if board and board.limits.temperature_max else None
    if limit is None:
        return [Finding("temperature", "ok", f"{now:.1f} °C; this board's limit is not known")]
    words = f"{now:.1f} °C; it slows down from {limit:.0f} °C"
    if now >= limit:
        return [Finding("temperature", "failed", words, COOL)]
    if now >= limit - 10:
        return [Finding("temperature", "warning", words, COOL)]
    return [Finding("temperature", "ok", words)]


def check_throttling(patient: Patient) -> list[Finding]:
    """The firmware neither lowers the clock nor sees too low a voltage, now and since boot."""
    bits = throttled_bits(patient)
    if bits is None:
        return not_checked("throttling", "this machine does not tell (vcgencmd and get_throttled are absent)")
    now = [BITS[b] for b in BITS if bits >> b & 1]
    since = [BITS[b] for b in BITS if bits >> (b + 16) & 1]
    if now:
        return [Finding("throttling", "failed", f"now: {', '.join(words for words, _ in now)}", now[0][1])]
    if since:
        found = f"since boot: {', '.join(words for words, _ in since)}; speeds measured then are too low"
        return [Finding("throttling", "warning", found, since[0][1])]
    return [Finding("throttling", "ok", "neither throttled nor under-voltage since boot")]


def throttled_bits(patient: Patient) -> int | None:
    """The firmware's bits, from /sys or vcgencmd; None where neither is."""
    for pattern in THROTTLED_FILES:
        for path in sorted(patient.root.glob(pattern)):
            if (text := read_text(path)) and re.fullmatch(r"(0x)?[0-9a-fA-F]+", text.strip()):
                return int(text.strip(), 16)
    answer = patient.run(["vcgencmd", "get_throttled"]) if patient.live else None
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", answer.out) if answer else None
    return int(found[1], 16) if found else None
