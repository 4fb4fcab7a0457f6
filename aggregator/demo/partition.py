"""Dividing a data set among devices, and spoiling the labels of some: every draw by seed, before training."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError

SAMPLES_MIN = 64
_REDRAWS_MAX = 2000
Indices = NDArray[np.int64]
NoiseKind = Literal["symmetric", "pair"]


def partition(
    rule: str, labels: NDArray[Any], groups: dict[str, NDArray[Any]], devices: int, seed: int
) -> list[Indices]:
    """Sample indices per device, by `iid`, `dirichlet:BETA` or `by:NAME` (whole groups of the array NAME_train).

    Raises UsageError for an unknown rule, or when the data cannot give every device at least 64 samples.
    """
    kind, _, argument = rule.partition(":")
    if len(labels) < devices * SAMPLES_MIN:
        raise UsageError(
            f"{len(labels)} training samples cannot give {devices} devices {SAMPLES_MIN} each; use fewer devices."
        )
    if kind == "iid" and not argument:
        order = Draws(seed, "partition").permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, devices)]
    if kind == "dirichlet":
        return _dirichlet(_beta(argument), labels, devices, seed)
    if kind == "by" and argument:
        return _by_group(argument, groups, devices)
    raise UsageError(f"partition {rule!r} is unknown; use iid, dirichlet:BETA (such as dirichlet:0.5) or by:NAME.")


def _beta(text: str) -> float:
    try:
        beta = float(text or "0.5")
    except ValueError:
        beta = 0.0
    if not 0 < beta < 1e6:
        raise UsageError(f"dirichlet:{text} needs a positive number, such as dirichlet:0.5.")
    return beta


def _dirichlet(beta: float, labels: NDArray[Any], devices: int, seed: int) -> list[Indices]:
    """Per class, shares ~ Dir(β) of the devices (Hsu et al., arXiv 1909.06335), redrawn until each has enough."""
    for attempt in range(_REDRAWS_MAX):
        generator = Draws(seed, "partition", attempt).generator()
        parts: list[list[Indices]] = [[] for _ in range(devices)]
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(generator.dirichlet(np.full(devices, beta)))[:-1] * len(members)
            for part, chosen in zip(parts, np.split(members, np.round(cuts).astype(int)), strict=True):
                part.append(chosen)
        joined = [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]
        if min(len(part) for part in joined) >= SAMPLES_MIN:
            return joined
    raise UsageError(
        f"dirichlet:{beta:g} gave some device fewer than {SAMPLES_MIN} samples in {_REDRAWS_MAX} draws; "
        "use fewer devices or a larger number."
    )


def _by_group(name: str, groups: dict[str, NDArray[Any]], devices: int) -> list[Indices]:
    """Whole groups, the largest first, each to the device that has least."""
    if name not in groups:
        raise UsageError(f"by:{name} needs an array {name}_train; the data has: {', '.join(groups) or 'none'}.")
    values, counts = np.unique(groups[name], return_counts=True)
    if len(values) < devices:
        raise UsageError(
            f"by:{name} has {len(values)} groups for {devices} devices; use at most {len(values)} devices."
        )
    parts: list[list[Indices]] = [[] for _ in range(devices)]
    for value in values[np.argsort(-counts, kind="stable")]:
        least = min(range(devices), key=lambda d: sum(len(p) for p in parts[d]))
        parts[least].append(np.flatnonzero(groups[name] == value))
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


@dataclass(frozen=True, slots=True)
class Noise:
    """Label noise of `kind` at `rate` on the devices numbered in `devices` (from 1)."""

    kind: NoiseKind
    rate: float
    devices: tuple[int, ...]


def parse_noise(text: str, device_count: int) -> Noise | None:
    """`KIND:RATE@I[,J]`, or `none`. Raises UsageError saying what is wrong."""
    if text == "none":
        return None
    form = "use KIND:RATE@I[,J], such as pair:0.4@2, or none"
    head, _, tail = text.partition("@")
    kind, _, rate_text = head.partition(":")
    try:
        rate, numbers = float(rate_text), tuple(int(n) for n in tail.split(","))
    except ValueError:
        raise UsageError(f"noise {text!r} cannot be read; {form}.") from None
    if kind not in get_args(NoiseKind) or not 0 <= rate <= 1:
        raise UsageError(f"noise {text!r}: the kind is symmetric or pair and the rate lies in [0, 1]; {form}.")
    if any(not 1 <= n <= device_count for n in numbers):
        raise UsageError(f"noise {text!r} names a device outside 1 to {device_count}; {form}.")
    return Noise("pair" if kind == "pair" else "symmetric", rate, numbers)


def spoil(labels: NDArray[Any], noise: Noise, class_count: int, draws: Draws) -> NDArray[Any]:
    """Labels with noise, each with probability `rate`: "pair" y -> (y+1) mod C, "symmetric" y -> one of the others."""
    hit = draws.uniform(len(labels)) < noise.rate
    shift = np.ones(len(labels), dtype=np.int64)
    if noise.kind == "symmetric":
        shift = 1 + draws.below(len(labels), max(class_count - 1, 1))
    spoiled = np.where(hit, (labels.astype(np.int64) + shift) % class_count, labels)
    return spoiled.astype(labels.dtype)
