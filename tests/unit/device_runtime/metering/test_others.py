"""What others took of the processor, from a captured /proc/stat, and its absence."""

import os

import pytest

from device_runtime.metering.others import Ticks, stolen, taken_by_others, ticks

HZ = os.sysconf("SC_CLK_TCK")


def stat(tmp_path, *seconds):
    words = " ".join(str(int(s * HZ)) for s in seconds)
    (tmp_path / "stat").write_text(f"cpu  {words}\ncpu0 {words}\ncpu1 {words}\nintr 1 2 3\nctxt 4\n")
    return ticks(tmp_path)


def test_idle_waiting_and_stolen_time_is_not_busy(tmp_path):
    assert stat(tmp_path, 10, 1, 5, 100, 7, 2, 3, 4, 0, 0) == Ticks(busy_s=21.0, stolen_s=4.0, cores=2)


def test_guests_are_part_of_user_time_and_not_counted_twice(tmp_path):
    assert stat(tmp_path, 10, 0, 0, 100, 0, 0, 0, 0, 10, 0).busy_s == 10.0


def test_ours_is_not_others():
    before, after = Ticks(100.0, 5.0, 4), Ticks(118.0, 6.0, 4)
    assert taken_by_others(before, after, own_s=10.0, wall_s=10.0) == pytest.approx(0.8)
    assert stolen(before, after, wall_s=10.0) == pytest.approx(0.1)
    assert taken_by_others(before, after, own_s=30.0, wall_s=10.0) == 0.0  # ticks are coarse


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "intr 1\n", "cpu a b c d e f g h i j\n"])
def test_another_format_is_no_count(tmp_path, text):
    (tmp_path / "stat").write_text(text)
    assert ticks(tmp_path) is None


def test_absence_is_absent(tmp_path):
    known = Ticks(1.0, 0.0, 1)
    assert ticks(tmp_path) is None
    assert taken_by_others(None, known, 0.0, 1.0) is None
    assert stolen(known, None, 1.0) is None
    assert stolen(known, known, 0.0) is None
