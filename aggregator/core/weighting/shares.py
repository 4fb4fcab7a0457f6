"""Weights as shares of one: what a weighting remembers of every device that ever took part."""

import math
from collections.abc import Mapping

import msgspec

from device_runtime.wire.errors import UsageError


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By device, in ascending order of names.

    weights: r, sum 1 (or empty). participations: rounds the device took part in. sample_counts: its local samples.
    """

    weights: dict[str, float] = {}
    participations: dict[str, int] = {}
    sample_counts: dict[str, int] = {}

    def with_samples(self, sample_counts: Mapping[str, int]) -> dict[str, int]:
        """The sample counts of all known devices, those of `sample_counts` brought up to date.

        Raises UsageError for a negative sample count.
        """
        for device, count in sample_counts.items():
            if count < 0:
                raise UsageError(f"device {device!r} reports {count} samples; a sample count is at least 0")
        return dict(sorted({**self.sample_counts, **sample_counts}.items()))

    def counted(self, devices: Mapping[str, object]) -> dict[str, int]:
        """Participations after a round of these devices."""
        return {device: k + (device in devices) for device, k in self.participations.items()}


def data_share(sample_counts: Mapping[str, int]) -> dict[str, float]:
    """r_n = |D_n| / Σ|D|; equal shares for devices without any samples."""
    total = sum(sample_counts.values())
    if total == 0:
        return equal_share(sample_counts)
    return {device: count / total for device, count in sample_counts.items()}


def equal_share(devices: Mapping[str, object]) -> dict[str, float]:
    """r_n = 1/N."""
    return {device: 1.0 / len(devices) for device in devices}


def normalised(weights: Mapping[str, float], sample_counts: Mapping[str, int]) -> dict[str, float]:
    """`weights` scaled to sum 1; the data share when they are all 0. fsum: the order of devices does not matter."""
    total = math.fsum(weights.values())
    if total <= 0.0:
        return data_share(sample_counts)
    return {device: r / total for device, r in weights.items()}
