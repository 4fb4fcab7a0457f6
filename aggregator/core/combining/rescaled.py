"""The rescaled step: the direction of the unit updates, as long as the updates are on average."""

from aggregator.core.combining.interface import COMBININGS
from aggregator.core.combining.mean import Mean
from aggregator.core.combining.partial import Member, Partial, Sum
from aggregator.core.vectors import NORM_MIN


@COMBININGS.rule
class RescaledStep(Mean, frozen=True, tag="rescaled"):
    """D = U Σ w_n ‖Δ_n‖ / Σ w_n: no device pulls further than another, and the step anneals as training does."""

    def scored_change(self, name: str, partial: Partial, senders: list[Member]) -> Sum:
        """U of one tensor times the mean length."""
        directed = [m for m in senders if m.norm >= NORM_MIN]
        direction = self.mean(partial.direction[name], sum(m.weight for m in directed))
        weight = sum(m.weight for m in senders)
        length = sum(m.weight * m.norm for m in directed) / weight if weight > 0.0 else 0.0
        return direction * length
