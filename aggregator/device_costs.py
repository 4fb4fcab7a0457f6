"""What a run knows of each device's time per round: points of its kept profile, and the rounds it was observed in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggregator.core.rating.interface import GRID
from aggregator.core.rating.round_cost import Known, Point, RoundTime
from aggregator.profiles.kept import CaseFacts, ProfileFacts
from aggregator.results import RoundResult
from device_runtime.wire.limits import DURATION_NS_MAX
from device_runtime.wire.measurement import Measurement, Phase
from device_runtime.wire.messages import Hello, Offer

ROUNDS_OBSERVED_MAX = 20
"""Older rounds are forgotten: boards warm up, get other work, another supply."""
SAME_SPARSITY = 0.5 / GRID
"""Sparsities closer together are one: counts are rounded by layer."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the devices of a run train: a profile of anything else says nothing of their time."""

    model: str
    input_shape: tuple[int, ...]
    class_count: int
    batch_size: int
    epoch_count: int


def known_of(
    hello: Hello, engine: str, trained: Trained, profile: ProfileFacts | None, observed: tuple[RoundTime, ...]
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
) -> dict[str, tuple[RoundTime, ...]]:
    """By device, what its accepted rounds took at their sparsity, on the engine it has now."""
    sparsities: dict[str, dict[int, float]] = {}
    for result in results:
        for d in result.devices:
            sparsities.setdefault(d.name, {})[result.round_index] = d.sparsity
    measured: dict[str, dict[int, Measurement]] = {}
    for index, offer in offers:
        if index in sparsities.get(offer.device, {}) and offer.measurement.engine == engines.get(offer.device):
            measured.setdefault(offer.device, {})[index] = offer.measurement
    found = {}
    for device, rounds in measured.items():
        own = sparsities[device]
        times = (round_time(m, own[index], _upload(index, rounds, own)) for index, m in rounds.items())
        found[device] = tuple(time for time in times if time is not None)
    return found


def _upload(index: int, rounds: Mapping[int, Measurement], sparsities: Mapping[int, float]) -> Phase | None:
    """The upload of a round's update, which the next round tells; until then the one before, if that was as sparse.

    None where neither is known: an upload of a submodel ten times as large says nothing of this one.
    """
    if index + 1 in rounds:
        return rounds[index + 1].upload_previous
    if abs(sparsities.get(index - 1, sparsities[index]) - sparsities[index]) < SAME_SPARSITY:
        return rounds[index].upload_previous
    return None


def round_time(measurement: Measurement, sparsity: float, upload: Phase | None) -> RoundTime | None:
    """What a round took, in seconds; None where training was not timed.

    Another part that was not timed, such as the upload before the first, counts nothing; without an upload that could
    stand for this round's, nothing is known of its transfers.
    """
    m = measurement
    if not _is_timed(m.train):
        return None
    return RoundTime(
        sparsity, _seconds(m.load, m.train, m.serialise), None if upload is None else _seconds(m.download, upload)
    )


def _is_timed(phase: Phase) -> bool:
    """Whether there is a time that a clock can have read: whatever a device sends, sums and products stay finite."""
    return phase.wall_ns.value is not None and 0 <= phase.wall_ns.value <= DURATION_NS_MAX


def _seconds(*phases: Phase) -> float:
    return sum(phase.wall_ns.value or 0 for phase in phases if _is_timed(phase)) / 1e9
