"""The masked mean: each coordinate moves by the weighted mean of the updates that hold it.

Σ w m Δ / Σ w m: FedAvg (McMahan et al., AISTATS 2017), per coordinate over its holders as in HeteroFL and FedDST.
Weights and biases: w = r; "norm" and "statistic": w = samples.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from aggregator.core.combining.interface import COMBININGS, Stepped
from aggregator.core.combining.partial import Answers, Member, Partial, Sum, Tally, ratio
from aggregator.core.registry import Rule
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Role
from device_runtime.wire.support import FloatArray, Params

Coverage = Literal["coverage", "residual_mean"]
VARIANCE_SUFFIX: Final = "running_var"
"""A statistic whose name ends so is a variance and is kept >= 0."""


@COMBININGS.rule
class Mean(Rule, frozen=True, tag="mean"):
    """D = Σ w m Δ / Σ w m.

    coverage: "coverage" averages each coordinate over its holders; "residual_mean" over all participants that sent the
    tensor, those without the coordinate counting as no change (R2SP of FedMP, Jiang et al., ICDE 2022). votes_min:
    holders a coordinate needs to move.
    """

    coverage: Coverage = "coverage"
    votes_min: int = 1

    def __post_init__(self) -> None:
        if self.votes_min < 1:
            raise UsageError(f"votes_min is {self.votes_min}; give at least 1")

    def combine(self, theta: Params, partial: Partial, answers: Answers, roles: Mapping[str, Role]) -> Stepped:
        """θ_i <- θ_i + D_i where a coordinate has holders enough; running variances are clamped at 0."""
        moved: dict[str, FloatArray] = {}
        covered: dict[str, NDArray[np.bool_]] = {}
        for name, old in theta.items():
            tally = partial.step[name]
            where = (tally.denominator > 0.0) & (tally.holders >= self.votes_min)
            senders = [m for m in partial.members if name not in m.kept_back]
            if name in partial.direction:
                change = self.scored_change(name, partial, senders)
            else:
                change = self.mean(tally, sum(float(m.sample_count) for m in senders))
            moved[name] = _stepped(name, old, change, where, roles[name])
            covered[name] = where
        return Stepped(moved, covered)

    def scored_change(self, name: str, partial: Partial, senders: list[Member]) -> Sum:
        """D of a weight or a bias, float64, dense; `senders` are the devices that sent the tensor."""
        return self.mean(partial.step[name], sum(m.weight for m in senders))

    def mean(self, tally: Tally, total: float) -> Sum:
        """Over the holders of each coordinate, or over everybody (`total` is their summed weight)."""
        if self.coverage == "coverage":
            return ratio(tally.numerator, tally.denominator)
        return tally.numerator / total if total > 0.0 else np.zeros_like(tally.numerator)


def _stepped(name: str, old: FloatArray, change: Sum, where: NDArray[np.bool_], role: Role) -> FloatArray:
    """One tensor after its step, with its old bits where it has none."""
    with np.errstate(over="ignore"):  # caught below, with a sentence
        new = (old.astype(np.float64) + change).astype(np.float32)
    if role == "statistic" and name.endswith(VARIANCE_SUFFIX):
        new = np.maximum(new, np.float32(0.0))
    if not np.isfinite(new[where]).all():
        raise UsageError(f"the step takes {name!r} beyond float32; lower the learning rate")
    return np.where(where, new, old)
