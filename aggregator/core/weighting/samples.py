"""By samples: a device counts as much as it has data (FedAvg: McMahan et al., AISTATS 2017)."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from aggregator.core.registry import Rule
from aggregator.core.weighting.interface import WEIGHTINGS
from aggregator.core.weighting.shares import Shares, data_share


@WEIGHTINGS.rule
class Samples(Rule, frozen=True, tag="samples"):
    """r_n = |D_n| / Σ|D| over all devices that ever took part."""

    Remembered: ClassVar[type[msgspec.Struct]] = Shares

    def start(self) -> Shares:
        """Nobody is known."""
        return Shares()

    def join(self, known: Shares, sample_counts: Mapping[str, int]) -> Shares:
        """Shares of what all known devices have now."""
        counts = known.with_samples(sample_counts)
        return Shares(self.share(counts), {d: known.participations.get(d, 0) for d in counts}, counts)

    def share(self, sample_counts: Mapping[str, int]) -> dict[str, float]:
        """The weights that follow from the sample counts."""
        return data_share(sample_counts)

    def weights(self, known: Shares) -> Mapping[str, float]:
        """r."""
        return known.weights

    def learn(self, known: Shares, scores: Mapping[str, float]) -> Shares:
        """Only participations change."""
        return msgspec.structs.replace(known, participations=known.counted(scores))
