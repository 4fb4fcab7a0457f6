"""What a run knows of each device's time per round: points of its kept profile, and the rounds it was observed in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggregator.core.rates import Known, Point
from aggregator.profiles import CaseFacts, ProfileFacts
from aggregator.results import RoundResult
from device_runtime.wire.measurement import Measurement
from device_runtime.wire.messages import Hello, Offer

ROUNDS_OBSERVED_MAX = 20
"""Older rounds are forgotten: boards warm up, get other work, another supply."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the devices of a run train: a profile of anything else says nothing of their time."""

    model: str
    input_shape: tuple[int, ...]
    class_count: int
    batch_size: int
    epoch_count: int


def known_of(
    hello: Hello, engine: str, trained: Trained, profile: ProfileFacts | None, observed: tuple[Point, ...]
) -> tuple[Known, str]:
    """All that is known of a device, and a sentence's end saying why its profile is not used, "" where it is.

    A valid case of the same model, engine and batch is a point: its median step times the steps of a round.
    """
    if profile is None or hello.profile is None or profile.sha != hello.profile.sha:
        return Known(observed=observed), ""
    why = why_unused(profile, engine, trained)
    if why:
        return Known(observed=observed), why
    steps = trained.epoch_count * -(-hello.sample_count // trained.batch_size)
    points = (Point(c.sparsity, c.step_ns_p50 * steps / 1e9) for c in profile.cases if _fits(c, engine, trained))
    return Known(tuple(points), observed), ""


def why_unused(profile: ProfileFacts, engine: str, trained: Trained) -> str:
    """Why nothing of a profile says what this run's rounds take, "" where something does."""
    if profile.is_emulated:
        return "it was made under an emulator"
    subject = (profile.model, profile.input_shape, profile.class_count)
    if subject != (trained.model, trained.input_shape, trained.class_count):
        return f"it is of model {profile.model[:60]!r} on {list(profile.input_shape)}, {profile.class_count} classes"
    if not any(c.is_valid for c in profile.cases):
        return f"its verdict is: {profile.verdict}"
    if not any(_fits(c, engine, trained) for c in profile.cases):
        return f"it has no valid case of engine {engine} with batches of {trained.batch_size}"
    return ""


def _fits(case: CaseFacts, engine: str, trained: Trained) -> bool:
    return case.is_valid and (case.engine, case.batch) == (engine, trained.batch_size)


def observations(
    results: Iterable[RoundResult], offers: Iterable[tuple[int, Offer]], engines: Mapping[str, str]
) -> dict[str, tuple[Point, ...]]:
    """By device, what its accepted rounds took at their sparsity, on the engine it has now."""
    sparsities = {(r.round_index, d.name): d.sparsity for r in results for d in r.devices}
    found: dict[str, list[Point]] = {}
    for round_index, offer in offers:
        sparsity = sparsities.get((round_index, offer.device))
        seconds = round_seconds(offer.measurement)
        if sparsity is None or seconds is None or offer.measurement.engine != engines.get(offer.device):
            continue
        found.setdefault(offer.device, []).append(Point(sparsity, seconds))
    return {device: tuple(points) for device, points in found.items()}


def round_seconds(measurement: Measurement) -> float | None:
    """Download, load, train, serialise and the upload before, in seconds; None where training was not timed.

    A transfer that was not timed, such as the upload before the first, counts nothing.
    """
    m = measurement
    if m.train.wall_ns.value is None:
        return None
    phases = (m.download, m.load, m.train, m.serialise, m.upload_previous)
    return sum(phase.wall_ns.value or 0 for phase in phases) / 1e9
