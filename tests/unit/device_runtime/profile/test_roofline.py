"""The roofline: a layer's place below the limits, and limits measured in a moment."""

import pytest

from device_runtime.profile.record import Roof
from device_runtime.profile.roofline import measure_roof, point
from device_runtime.profile.values import absent, measured


def test_below_the_slope_memory_is_the_limit(roof):
    spot = point(1_000_000, 1_000_000, 0.001, roof)  # 1 FLOP/B under 100 GFLOP/s and 10 GB/s
    assert spot.intensity.value == 1.0
    assert spot.rate.value == pytest.approx(1.0)
    assert spot.share_of_roof.value == pytest.approx(0.1)
    assert spot.bound == "memory"


def test_beyond_the_ridge_compute_is_the_limit(roof):
    spot = point(100_000_000, 1_000_000, 0.002, roof)
    assert spot.share_of_roof.value == pytest.approx(0.5)
    assert spot.bound == "compute"


def test_what_counts_no_flops_has_no_place(roof):
    spot = point(0, 1_000_000, 0.001, roof)
    assert spot.rate.source == spot.intensity.source == spot.share_of_roof.source == "absent"
    assert spot.bound == ""


def test_a_layer_too_short_for_the_clock_has_no_rate(roof):
    assert "clock" in point(100, 100, 0.0, roof).rate.note


def test_without_shapes_there_is_a_rate_only(roof):
    spot = point(1_000_000, 0, 0.001, roof)
    assert spot.rate.value == pytest.approx(1.0)
    assert spot.intensity.source == "absent"


def test_without_a_roof_there_is_no_share():
    unknown = Roof(threads=1, compute=absent("GFLOP/s", "unknown"), bandwidth=measured(1.0, "GB/s"))
    spot = point(1_000_000, 1_000_000, 0.001, unknown)
    assert spot.intensity.value == 1.0
    assert spot.share_of_roof.source == "absent"


@pytest.mark.parametrize("threads", [1, 2])
def test_limits_are_measured_with_every_sample(threads):
    told = []
    roof = measure_roof(threads, 0.01, told.append)
    assert roof.threads == threads
    assert roof.compute.source == roof.bandwidth.source == "measured"
    assert roof.compute.value == max(roof.compute_samples)
    assert roof.bandwidth.value == max(roof.bandwidth_samples)
    assert told[-1] == 1.0
