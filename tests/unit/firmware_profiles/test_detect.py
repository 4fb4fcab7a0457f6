"""Detection: each board's tree is recognised, for a reason that is said, and what contradicts is said too."""

from pathlib import Path

import pytest

from firmware_profiles.catalogue import load_boards
from firmware_profiles.detect import detect, detect_board
from firmware_profiles.facts import Facts, read_facts
from tests.unit.firmware_profiles.trees import ARM_BOARDS, arm_tree, write, x86_tree


@pytest.mark.parametrize("board", [b for b in ARM_BOARDS if b != "generic-aarch64"])
def test_each_board_is_recognised_by_its_device_tree(board: str, tmp_path: Path) -> None:
    found = detect_board(arm_tree(tmp_path, board), "aarch64")
    assert found.board is not None
    assert found.board.id == board
    assert found.certainty == "board"
    assert any("device tree is compatible with" in r for r in found.reasons)
    assert any("MIDR" in r for r in found.reasons)
    assert found.doubts == ()


@pytest.mark.parametrize("board", [b for b, row in ARM_BOARDS.items() if load_boards()[b].match.model])
def test_the_model_alone_tells_boards_apart(board: str) -> None:
    found = detect(Facts(architecture="aarch64", model=ARM_BOARDS[board][0]), load_boards())
    assert found.board is not None
    assert found.board.id == board


def test_cpuinfo_names_the_board_where_there_is_no_device_tree(tmp_path: Path) -> None:
    arm_tree(tmp_path, "rpi5", device_tree=False)
    with (tmp_path / "proc/cpuinfo").open("a") as file:
        file.write("\nRevision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    found = detect_board(tmp_path, "aarch64")
    assert found.board is not None
    assert (found.board.id, found.certainty) == ("rpi5", "board")


def test_an_unknown_arm_board_is_generic_and_none_of_its_numbers_are_claimed(tmp_path: Path) -> None:
    found = detect_board(arm_tree(tmp_path, "generic-aarch64"), "aarch64")
    assert found.board is not None
    assert (found.board.id, found.certainty) == ("generic-aarch64", "architecture")
    assert any("Pine64 Rock64" in r for r in found.reasons)


def test_a_gateway_has_numbers_only_where_its_processor_is_the_measured_one(tmp_path: Path) -> None:
    known = detect_board(x86_tree(tmp_path / "a", "Intel(R) N100"), "x86_64")
    other = detect_board(x86_tree(tmp_path / "b", "Intel(R) Core(TM) i7-1260P"), "x86_64")
    assert known.board is not None
    assert other.board is not None
    assert (known.board.id, known.certainty) == ("x86-gateway", "board")
    assert known.board.clusters
    assert (other.board.id, other.certainty) == ("x86-gateway", "architecture")
    assert not other.board.clusters
    assert other.board.power.idle is None


def test_cores_of_another_board_are_a_doubt(tmp_path: Path) -> None:
    arm_tree(tmp_path, "rpi5")
    write(tmp_path / "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")
    found = detect_board(tmp_path, "aarch64")
    assert found.board is not None
    assert found.board.id == "rpi4b"
    assert any("is the device tree another board's?" in d for d in found.doubts)


def test_a_system_of_32_bits_is_a_doubt_with_its_remedy(tmp_path: Path) -> None:
    found = detect_board(arm_tree(tmp_path, "rpi4b"), "armv7l")
    assert found.board is not None
    assert found.board.id == "rpi4b"
    assert any("flash a 64-bit image" in d for d in found.doubts)


def test_an_emulated_machine_is_told_as_one(tmp_path: Path) -> None:
    write(tmp_path / "proc/device-tree/compatible", "linux,dummy-virt\0")
    found = detect_board(tmp_path, "aarch64")
    assert found.facts.hypervisor == "QEMU virt machine"
    assert found.certainty == "architecture"
    assert found.doubts


def test_a_machine_of_no_known_architecture_has_no_board(tmp_path: Path) -> None:
    found = detect_board(tmp_path, "riscv64")
    assert (found.board, found.certainty) == (None, "none")


def test_cores_are_read_from_sysfs_where_cpuinfo_lacks_them(tmp_path: Path) -> None:
    path = "sys/devices/system/cpu/cpu{}/regs/identification/midr_el1"
    for core in range(2):
        write(tmp_path / path.format(core), "0x00000000414fd0b1\n")
    assert read_facts(tmp_path, "aarch64").midr == ("0x41:0xd0b",) * 2


def test_absence_of_everything_is_no_error(tmp_path: Path) -> None:
    assert read_facts(tmp_path, "aarch64") == Facts(architecture="aarch64")
