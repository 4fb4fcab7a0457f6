"""The masked cosine: how far an update points where the weighted mean of all points, on what the device holds.

ψ_n = <u_n, m_n U> / (‖u_n‖ ‖m_n U‖), u = Δ/‖Δ‖, U_i = Σ w m u / Σ w m (CGSV: Xu et al., NeurIPS 2021; masks:
specification, section 4). Known limit: it measures agreement with the weighted majority; where most of the weight is
noisy, it rewards noise.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from aggregator.core.combining.partial import Answers, Member, Partial, Sum, Update, on_support, ratio
from aggregator.core.registry import Rule
from aggregator.core.scoring.interface import SCORINGS
from aggregator.core.vectors import NORM_MIN, cosine
from device_runtime.wire.support import FloatArray

RELATIVE_TINY: Final = 1e-9
"""What a float64 subtraction may leave of a weight that was really used up (exclude_self)."""


@SCORINGS.rule
class Cosine(Rule, frozen=True, tag="cosine"):
    """exclude_self: ψ against the direction of the others only, without the term that makes the heavy heavier."""

    exclude_self: bool = False

    def scores(self, partial: Partial, answers: Answers) -> dict[str, float]:
        """ψ in [-1, 1] by device; 0 for an update shorter than NORM_MIN."""
        members = {member.device: member for member in partial.members}
        direction = {} if self.exclude_self else directions(partial)
        psi: dict[str, float] = {}
        for update in answers:
            member = members.get(update.device)
            if member is None or member.norm < NORM_MIN:
                psi[update.device] = 0.0
            elif self.exclude_self:
                psi[update.device] = _score_against_others(update, member, partial)
            else:
                psi[update.device] = score(update, direction)
        return psi


def directions(partial: Partial) -> dict[str, Sum]:
    """U of the scored tensors, float64, dense: the weighted mean of unit updates over each coordinate's holders."""
    return {name: ratio(tally.numerator, tally.denominator) for name, tally in partial.direction.items()}


def score(update: Update, direction: Mapping[str, Sum]) -> float:
    """ψ = cos(Δ, m U) of one update on its own support; a gateway can do it downstream."""
    return cosine(
        (kept.values, on_support(kept.support, direction[n])) for n, kept in update.delta.items() if n in direction
    )


def _score_against_others(update: Update, member: Member, partial: Partial) -> float:
    """ψ against U without this device: its own share is taken out of the sums, on its support only."""

    def pairs() -> Iterator[tuple[FloatArray, Sum]]:
        for name, kept in update.delta.items():
            if name not in partial.direction:
                continue
            tally = partial.direction[name]
            weights = on_support(kept.support, tally.denominator)
            others = weights - member.weight
            others[others <= RELATIVE_TINY * weights] = 0.0
            own = kept.values.astype("float64") * (member.weight / member.norm)
            yield kept.values, ratio(on_support(kept.support, tally.numerator) - own, others)

    return cosine(pairs())
