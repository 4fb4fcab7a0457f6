"""Subnormal numbers count as zero inside the block, on its thread, and nowhere else."""

import platform
import threading

import numpy as np
import pytest

from device_runtime.engines.subnormals import subnormals_as_zero

TINY = np.full(8, 1e-40, dtype=np.float32)


def half() -> float:
    return float((TINY * np.float32(0.5)).sum())


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the mode is set on x86-64 and aarch64 only"
)
def test_subnormals_are_zero_inside_the_block_and_back_behind_it() -> None:
    assert half() > 0
    with subnormals_as_zero():
        assert half() == 0
        other: list[float] = []
    assert half() > 0
    thread = threading.Thread(target=lambda: other.append(half()))
    thread.start()
    thread.join()
    assert other[0] > 0


def test_an_error_in_the_block_leaves_no_mode_behind() -> None:
    with pytest.raises(KeyError), subnormals_as_zero():
        raise KeyError
    assert half() > 0
