"""Emulation: QEMU is told from a real board and from a virtual machine, on captured trees."""

import pytest

from device_runtime.metering.emulation import emulated_by, hypervisor

PI = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2\n"
GUEST = X86.replace("avx2", "avx2 hypervisor")
CLOCK = "sys/devices/system/clocksource/clocksource0/available_clocksource"


@pytest.fixture
def tree(tmp_path):
    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_a_real_pi_and_a_real_pc_are_not_emulated(tree, tmp_path):
    pi = {"proc/cpuinfo": PI, "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}
    assert emulated_by(tree(pi), "aarch64") == ""
    assert hypervisor(tmp_path) == ""


def test_a_real_pc_is_neither_emulated_nor_virtual(tree, tmp_path):
    assert emulated_by(tree({"proc/cpuinfo": X86, "sys/class/dmi/id/sys_vendor": "LattePanda\n"}), "x86_64") == ""
    assert hypervisor(tmp_path) == ""


def test_user_mode_shows_the_kernels_processor(tree):
    assert "user mode" in emulated_by(tree({"proc/cpuinfo": X86}), "aarch64")


def test_user_mode_that_fakes_cpuinfo_still_shows_an_x86_sysfs(tree):
    files = {"proc/cpuinfo": PI, "sys/devices/system/cpu/cpu0/microcode/version": "0x1\n"}
    assert "user mode" in emulated_by(tree(files), "aarch64")


def test_user_mode_shows_the_kernels_own_architecture(tree):
    files = {"proc/cpuinfo": PI, "proc/sys/kernel/arch": "x86_64\n"}
    assert "the kernel is of x86_64" in emulated_by(tree(files), "aarch64")


@pytest.mark.parametrize(("machine", "kernel"), [("armv7l", "aarch64"), ("aarch64", "aarch64"), ("x86_64", "x86_64")])
def test_a_kernel_of_the_same_kind_is_no_emulator(tree, machine, kernel):
    assert emulated_by(tree({"proc/sys/kernel/arch": f"{kernel}\n"}), machine) == ""


def test_user_mode_the_other_way_round(tree):
    assert "user mode" in emulated_by(tree({"proc/cpuinfo": PI}), "x86_64")


def test_the_virt_machine_is_emulated(tree):
    files = {"proc/cpuinfo": PI, "sys/firmware/devicetree/base/compatible": "linux,dummy-virt\0"}
    assert "device tree" in emulated_by(tree(files), "aarch64")


def test_qemu_without_kvm_is_emulated(tree):
    maker = {"proc/cpuinfo": X86, "sys/class/dmi/id/sys_vendor": "QEMU\n"}
    assert "maker" in emulated_by(tree(maker), "x86_64")


def test_a_processor_called_qemu_is_emulated(tree):
    files = {"proc/cpuinfo": X86.replace("AMD EPYC", "QEMU TCG CPU version 2.5+")}
    assert "QEMU" in emulated_by(tree(files), "x86_64")


def test_qemu_with_kvm_is_a_virtual_machine(tree, tmp_path):
    files = {"proc/cpuinfo": GUEST, "sys/class/dmi/id/sys_vendor": "QEMU\n", CLOCK: "tsc kvm-clock\n"}
    assert emulated_by(tree(files), "x86_64") == ""
    assert hypervisor(tmp_path) == "KVM"


def test_other_hosts_are_named(tree, tmp_path):
    assert hypervisor(tree({"sys/hypervisor/type": "xen\n"})) == "xen"
    (tmp_path / "sys/hypervisor/type").unlink()
    assert hypervisor(tree({"proc/cpuinfo": GUEST})) == "a hypervisor"


def test_a_bare_tree_shows_nothing(tmp_path):
    assert emulated_by(tmp_path, "aarch64") == ""
    assert hypervisor(tmp_path) == ""
