"""Small /proc and /sys trees of boards, constructed from documented values: the kernel's device tree sources give model
and compatible, its cputype.h the MIDR parts, /proc/cpuinfo's layout is the kernel's. They are not captures."""

from pathlib import Path

A53, A55, A72, A76, A78AE = "0xd03", "0xd05", "0xd08", "0xd0b", "0xd42"
OLD = "fp asimd evtstrm crc32 cpuid"
NEW = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

# board: model, compatible (most specific first), MIDR parts by core, features
ARM_BOARDS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "rpi-zero2w": ("Raspberry Pi Zero 2 W Rev 1.0", ("raspberrypi,model-zero-2-w", "brcm,bcm2837"), (A53,) * 4, OLD),
    "rpi3b-plus": (
        "Raspberry Pi 3 Model B Plus Rev 1.3", ("raspberrypi,3-model-b-plus", "brcm,bcm2837"), (A53,) * 4, OLD,
    ),
    "rpi4b": ("Raspberry Pi 4 Model B Rev 1.4", ("raspberrypi,4-model-b", "brcm,bcm2711"), (A72,) * 4, OLD),
    "rpi400": ("Raspberry Pi 400 Rev 1.0", ("raspberrypi,400", "brcm,bcm2711"), (A72,) * 4, OLD),
    "rpi-cm4": (
        "Raspberry Pi Compute Module 4 Rev 1.0", ("raspberrypi,4-compute-module", "brcm,bcm2711"), (A72,) * 4, OLD,
    ),
    "rpi5": ("Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712"), (A76,) * 4, NEW),
    "rpi-cm5": (
        "Raspberry Pi Compute Module 5 Rev 1.0", ("raspberrypi,5-compute-module", "brcm,bcm2712"), (A76,) * 4, NEW,
    ),
    "rpi500": ("Raspberry Pi 500 Rev 1.0", ("raspberrypi,500", "brcm,bcm2712"), (A76,) * 4, NEW),
    "rk3588": ("Xunlong Orange Pi 5", ("xunlong,orangepi-5", "rockchip,rk3588s"), (A55,) * 4 + (A76,) * 4, NEW),
    "jetson-orin-nano": (
        "NVIDIA Jetson Orin Nano Developer Kit",
        ("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"),
        (A78AE,) * 6,
        NEW,
    ),
    "beagleplay": ("BeagleBoard.org BeaglePlay", ("beagle,am625-beagleplay", "ti,am625"), (A53,) * 4, OLD),
    "generic-aarch64": ("Pine64 Rock64", ("pine64,rock64", "rockchip,rk3328"), (A53,) * 4, OLD),
}  # fmt: skip


def write(path: Path, text: str) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def arm_tree(root: Path, board: str, *, device_tree: bool = True) -> Path:
    """The tree of an ARM board below `root`."""
    model, compatible, parts, features = ARM_BOARDS[board]
    if device_tree:
        write(root / "proc/device-tree/model", model + "\0")
        write(root / "proc/device-tree/compatible", "".join(c + "\0" for c in compatible))
    cores = [
        f"processor\t: {i}\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n"
        for i, part in enumerate(parts)
    ]
    write(root / "proc/cpuinfo", "\n".join(cores))
    write(root / "proc/meminfo", "MemTotal:        8062592 kB\nMemAvailable:    7000000 kB\n")
    return root


def x86_tree(root: Path, name: str) -> Path:
    """The tree of an x86-64 machine."""
    write(
        root / "proc/cpuinfo", f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\nflags\t\t: fpu avx2\n"
    )
    return root
