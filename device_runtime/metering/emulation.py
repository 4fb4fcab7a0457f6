"""Whether a processor is real: under an emulator times mean nothing, under a hypervisor they may be late.

An emulator translates instructions (QEMU without KVM, or its user mode for one program). A hypervisor runs them on the
real processor, so a virtual machine's numbers are its own, and are not labelled emulated.
"""

import platform
import re
from pathlib import Path

ROOT = Path("/")
_ARM = ("aarch64", "arm64", "armv7l", "armv6l")
_X86_ONLY = ("sys/devices/system/cpu/cpu0/microcode", "sys/devices/system/machinecheck")


def emulated_by(root: Path = ROOT, machine: str | None = None) -> str:
    """What emulates this processor, "" where nothing shows that anything does."""
    machine = machine or platform.machine()
    cpuinfo, kernel = _text(root / "proc/cpuinfo"), _text(root / "proc/sys/kernel/arch").strip()
    if kernel and (machine in _ARM) != (kernel in _ARM):
        return f"QEMU user mode: programs see {machine}, the kernel is of {kernel}"
    if machine in _ARM and (_is_x86(cpuinfo) or any((root / p).exists() for p in _X86_ONLY)):
        return f"QEMU user mode: programs see {machine}, the kernel an x86 processor"
    if machine == "x86_64" and re.search(r"^CPU implementer", cpuinfo, re.MULTILINE):
        return "QEMU user mode: programs see x86_64, the kernel an ARM processor"
    if re.search(r"^model name\s*:.*(QEMU|TCG)", cpuinfo, re.MULTILINE) and not _has_kvm(root):
        return "QEMU without KVM: the processor is called QEMU's"
    tree = _text(root / "proc/device-tree/compatible") + _text(root / "sys/firmware/devicetree/base/compatible")
    if "linux,dummy-virt" in tree or "qemu" in tree.lower():
        return "QEMU: the device tree is its virtual machine's"
    maker = _text(root / "sys/class/dmi/id/sys_vendor") + _text(root / "sys/class/dmi/id/product_name")
    if "QEMU" in maker and not _has_kvm(root):
        return "QEMU without KVM: the firmware names it as the maker"
    return ""


def hypervisor(root: Path = ROOT) -> str:
    """What hosts this virtual machine, "" on bare metal or where nothing shows."""
    vendor = _text(root / "sys/hypervisor/type").strip()
    if vendor:
        return vendor
    flags = re.search(r"^flags\s*:(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    if flags and "hypervisor" in flags[1].split():
        return "KVM" if _has_kvm(root) else "a hypervisor"
    return ""


def _is_x86(cpuinfo: str) -> bool:
    return bool(re.search(r"^(vendor_id\s*:\s*(GenuineIntel|AuthenticAMD)|flags\s*:.*\bsse2\b)", cpuinfo, re.MULTILINE))


def _has_kvm(root: Path) -> bool:
    return "kvm-clock" in _text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
