"""How many threads training gets."""

from pathlib import Path

import pytest

from device_runtime import threads
from tests.unit.firmware_profiles.trees import arm_tree


@pytest.mark.parametrize(("board", "cores", "expected"), [("rpi-zero2w", 4, 3), ("rpi5", 4, 4), ("rpi5", 2, 2)])
def test_a_known_board_gets_the_threads_of_its_file_within_its_cores(
    board: str, cores: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    assert threads.training_threads(0, arm_tree(tmp_path, board), "aarch64") == expected


def test_an_unknown_machine_gets_all_its_cores_and_a_number_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 7)
    assert threads.training_threads(0, tmp_path, "riscv64") == 7
    assert threads.training_threads(2, tmp_path) == 2
