"""A self-benchmark overrides what the profile says, and only that."""

from pathlib import Path

import msgspec
import pytest

from device_runtime.wire.errors import UsageError
from firmware_profiles.catalogue import load_board
from firmware_profiles.measured import MEASURED_FILE, MeasuredBoard, Rate, load_measured, roofs


def measured(**rates: float) -> MeasuredBoard:
    return MeasuredBoard(
        board="rpi5",
        date="2026-11-20",
        machine="Raspberry Pi 5 Model B Rev 1.0",
        versions={},
        rates=tuple(
            Rate(
                quantity=q,  # type: ignore[arg-type]
                value=v,
                unit="GB/s" if "copy" in q or "add" in q else "GFLOP/s",
                threads=1,
                samples=(v,),
                how="test",
            )
            for q, v in rates.items()
        ),
    )


def test_without_a_measurement_the_static_numbers_stand() -> None:
    limits = roofs(load_board("rpi5"), None)
    assert limits.fp32_all is not None
    assert limits.memory_core is not None
    assert (limits.fp32_all.value, limits.fp32_all.source) == (153.5, "cpufp")
    assert (limits.memory_core.value, limits.memory_core.kind) == (12.0, "derived")
    assert limits.conv_all is None


def test_what_the_board_measured_overrides_and_the_rest_stays() -> None:
    limits = roofs(load_board("rpi5"), measured(gemm_all=120.0, copy_core=9.0, add_core=10.5))
    assert limits.fp32_all is not None
    assert limits.memory_core is not None
    assert limits.fp32_core is not None
    assert (limits.fp32_all.value, limits.fp32_all.kind, limits.fp32_all.source) == (120.0, "measured", "self")
    assert limits.memory_core.value == 10.5
    assert limits.fp32_core.value == 38.4
    assert limits.memory_all is not None
    assert limits.memory_all.value == 17, "one core alone says nothing of all"


def test_all_cores_can_do_at_least_what_one_did() -> None:
    limits = roofs(
        load_board("rpi5"), measured(gemm_core=30.0, gemm_all=20.0, conv_core=33.0, copy_core=9.0, copy_all=8.0)
    )
    assert limits.fp32_core is not None
    assert limits.fp32_all is not None
    assert limits.memory_all is not None
    assert (limits.fp32_core.value, limits.fp32_all.value, limits.memory_all.value) == (33.0, 33.0, 9.0)


def test_a_board_that_nobody_measured_has_no_limits() -> None:
    limits = roofs(load_board("generic-aarch64"), None)
    assert all(getattr(limits, name) is None for name in limits.__slots__)


def test_a_measurement_is_read_back_from_the_folder_and_a_broken_one_says_how_to_mend_it(tmp_path: Path) -> None:
    assert load_measured(tmp_path) is None
    record = measured(gemm_core=30.0)
    (tmp_path / MEASURED_FILE).write_bytes(msgspec.json.encode(record))
    assert load_measured(tmp_path) == record
    (tmp_path / MEASURED_FILE).write_text("{")
    with pytest.raises(UsageError, match="espalier boards measure"):
        load_measured(tmp_path)
