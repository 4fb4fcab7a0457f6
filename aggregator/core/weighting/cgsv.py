"""By contribution: scores ψ move the weights r they are measured with.

CGSV: Xu et al., "Gradient-Driven Rewards to Guarantee Fairness in Collaborative Machine Learning", NeurIPS 2021, with
the per-device decaying trade-off of the specification, section 4.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec
import numpy as np

from aggregator.core.registry import Rule
from aggregator.core.weighting.interface import WEIGHTINGS
from aggregator.core.weighting.shares import Shares, data_share, normalised
from device_runtime.wire.errors import UsageError

ScoreScale = Literal["literal", "share"]


@WEIGHTINGS.rule
class Cgsv(Rule, frozen=True, tag="cgsv"):
    """How weights follow from scores.

    gamma0: trade-off γ of a device's first round; 1 keeps r for ever, 0 replaces it by ψ at once.
    weight_min: floor of r before normalisation; 0 allows hard exclusion. It is capped at a tenth of an equal share, so
      that a fleet of more than 100 devices is not all floor.
    score_scale: "literal" mixes ψ as it is (it outweighs r, which sums to 1, sooner than γ suggests); "share" first
      scales ψ+ to the weight its participants hold, so that γ means what it says.
    """

    Remembered: ClassVar[type[msgspec.Struct]] = Shares

    gamma0: float = 0.7
    weight_min: float = 1e-3
    score_scale: ScoreScale = "literal"

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma0 <= 1.0:
            raise UsageError(f"gamma0 is {self.gamma0}; give a number from 0 to 1")
        if not 0.0 <= self.weight_min < 1.0:
            raise UsageError(f"weight_min is {self.weight_min}; give a number of at least 0 and below 1")

    def start(self) -> Shares:
        """Nobody is known."""
        return Shares()

    def join(self, known: Shares, sample_counts: Mapping[str, int]) -> Shares:
        """The data share for those of the first round; afterwards a newcomer gets r = median of those known.

        A device that is already known keeps its r and participations and only updates its sample count. Newcomers join
        one after the other, in order of names.
        """
        if not known.weights:
            counts = known.with_samples(sample_counts)
            return Shares(data_share(counts), dict.fromkeys(counts, 0), counts)
        returning = {device: count for device, count in sample_counts.items() if device in known.weights}
        known = msgspec.structs.replace(known, sample_counts=known.with_samples(returning))
        for device, count in sample_counts.items():
            if device not in known.weights:
                known = _join_one(known, device, count)
        return known

    def weights(self, known: Shares) -> Mapping[str, float]:
        """r."""
        return known.weights

    def trade_off(self, participation: int) -> float:
        """γ_n = 1 - (1-γ0)/k_n of a device's k-th round, k from 1.

        A counter per device, not the global round: with the latter a late joiner could hardly move. Under full
        participation both agree.
        """
        return 1.0 - (1.0 - self.gamma0) / participation

    def scaled(self, known: Shares, scores: Mapping[str, float]) -> dict[str, float]:
        """The scores as they are mixed into r: ψ itself, or ("share") ψ+ / Σψ+ times the participants' summed weight.

        Raises UsageError for an unknown device or a ψ that is not a number in [-1, 1].
        """
        for device, value in scores.items():
            if device not in known.weights:
                raise UsageError(f"device {device!r} is not known in this run; join it first")
            if not -1.0 <= value <= 1.0:
                raise UsageError(f"the contribution of {device!r} is {value}; a cosine lies in [-1, 1]")
        if self.score_scale == "literal":
            return dict(scores)
        positive = {d: max(value, 0.0) for d, value in scores.items()}
        total = math.fsum(positive.values())
        mass = math.fsum(known.weights[d] for d in scores)
        return {d: mass * value / total if total > 0.0 else 0.0 for d, value in positive.items()}

    def learn(self, known: Shares, scores: Mapping[str, float]) -> Shares:
        """The weights after a round in which the devices of `scores` took part.

        r_n <- γ_n r_n + (1-γ_n) ψ_n for participants only; r_n <- max(r_n, floor); then Σ r = 1 over all known devices
        (floor as in CGSV's public code). A negative ψ pulls r down to the floor. When every device sits at the floor
        nothing distinguishes them, and the data share is used. γ0 = 1 returns the weights bit for bit (FedAvg).
        """
        mixed = self.scaled(known, scores)
        participations = known.counted(scores)
        if self.gamma0 == 1.0:
            return Shares(known.weights, participations, known.sample_counts)
        weights = dict(known.weights)
        for device, value in mixed.items():
            gamma = self.trade_off(participations[device])
            weights[device] = gamma * weights[device] + (1.0 - gamma) * value
        floor = min(self.weight_min, 0.1 / max(len(weights), 1))
        if all(r <= floor for r in weights.values()):
            return Shares(data_share(known.sample_counts), participations, known.sample_counts)
        floored = {d: max(r, floor) for d, r in weights.items()}
        return Shares(normalised(floored, known.sample_counts), participations, known.sample_counts)


def _join_one(known: Shares, device: str, sample_count: int) -> Shares:
    """A device more."""
    counts = known.with_samples({device: sample_count})
    middle = float(np.median(list(known.weights.values())))
    weights = {d: known.weights.get(d, middle) for d in counts}
    participations = {d: known.participations.get(d, 0) for d in counts}
    return Shares(normalised(weights, counts), participations, counts)
