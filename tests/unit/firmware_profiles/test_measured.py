"""The limits of a step on a board, as its file knows them."""

from firmware_profiles.catalogue import load_board
from firmware_profiles.measured import roofs


def test_the_limits_are_those_of_the_boards_file() -> None:
    limits = roofs(load_board("rpi5"))
    assert limits.fp32_all is not None
    assert limits.memory_core is not None
    assert (limits.fp32_all.value, limits.fp32_all.source) == (153.5, "cpufp")
    assert (limits.memory_core.value, limits.memory_core.kind) == (12.0, "derived")


def test_a_board_that_nobody_measured_has_no_limits() -> None:
    limits = roofs(load_board("generic-aarch64"))
    assert all(getattr(limits, name) is None for name in limits.__slots__)
