"""One aggregation for tests of the rules: given weights and updates, closed by a composed method as in a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.core.combining import Combining, Mean
from aggregator.core.combining.partial import Answers, Update, first_pass
from aggregator.core.composed import Parts, compose
from aggregator.core.method import Facts
from aggregator.core.pruning import Pruning
from aggregator.core.registry import Rule
from aggregator.core.residuals import Keep
from aggregator.core.scoring import Cosine, Scoring
from aggregator.core.topologies import Static
from aggregator.core.weighting.shares import data_share
from device_runtime.wire.manifest import Role
from device_runtime.wire.support import FloatArray, Kept, Params, Support

ROLES: Mapping[str, Role] = {"w": "weight", "b": "bias", "bn.weight": "norm", "bn.running_var": "statistic"}
SHAPES = {"w": (4, 3), "b": (4,), "bn.weight": (4,), "bn.running_var": (4,)}


class Nothing(msgspec.Struct, frozen=True):
    """What a rule remembers that remembers nothing."""


class Given(Rule, frozen=True, tag="given"):
    """A weighting that gives every device the weight it was told, of any scale; in no registry."""

    Remembered: ClassVar[type[msgspec.Struct]] = Nothing

    prior: dict[str, float]

    def start(self) -> Nothing:
        return Nothing()

    def join(self, known: Nothing, sample_counts: Mapping[str, int]) -> Nothing:
        return known

    def weights(self, known: Nothing) -> Mapping[str, float]:
        return self.prior

    def learn(self, known: Nothing, scores: Mapping[str, float]) -> Nothing:
        return known


@dataclass(frozen=True)
class Aggregated:
    """theta: float32, dense, after the step. covered: where an update moved a coordinate. scores: ψ by device."""

    theta: dict[str, FloatArray]
    covered: dict[str, NDArray[np.bool_]]
    scores: dict[str, float]


def aggregate(
    theta: Params,
    prior: Mapping[str, float],
    updates: Callable[[], Iterator[Update]],
    roles: Mapping[str, Role],
    combining: Combining | None = None,
    scoring: Scoring | None = None,
) -> Aggregated:
    """The first round of a method that prunes nothing, whose devices weigh what `prior` says.

    Every tensor counts as prunable, so that the model says of each what was covered.
    """
    parts = Parts(
        pruning=Pruning(sparsity=0.0), topology=Static(), residual=Keep(), weighting=Given(prior=dict(prior)),
        combining=combining or Mean(), scoring=scoring or Cosine(),
    )  # fmt: skip
    facts = Facts({n: value.shape for n, value in theta.items()}, roles, frozenset(theta), theta)
    method = compose(parts, facts, round_count=2, seed=0)
    closed = method.close(method.init(), 1, Answers({}, updates))
    return Aggregated(closed.averaged.theta, closed.averaged.trained, dict(closed.scores))


def norms_of(
    theta: Params, prior: Mapping[str, float], updates: Iterator[Update], roles: Mapping[str, Role]
) -> dict[str, float]:
    """‖Δ‖ by device, in the order of the updates."""
    return {member.device: member.norm for member in first_pass(theta, prior, updates, roles).members}


def make_theta(seed=0):
    """A model of SHAPES, of positive values."""
    rng = np.random.default_rng(seed)
    return {n: np.abs(rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def make_update(device, deltas, masks=None, samples=10):
    """An update with these dense changes, each on its mask, or everywhere without one."""
    masks = masks or {}
    kept = {}
    for name, delta in deltas.items():
        support = Support.from_mask(masks[name]) if name in masks else Support.everything(delta.shape)
        kept[name] = Kept.of(delta.astype(np.float32), support)
    return Update(device, kept, samples)


def make_fleet(count, seed=1, masks=None, scale=0.1):
    """Updates of devices d0, d1, … with 10, 20, … samples."""
    rng = np.random.default_rng(seed)
    updates = []
    for i in range(count):
        deltas = {n: rng.normal(scale=scale, size=s) for n, s in SHAPES.items()}
        updates.append(make_update(f"d{i}", deltas, masks[i] if masks else None, samples=10 * (i + 1)))
    return updates


def random_masks(count, seed=3):
    """Masks of the weight for `count` devices."""
    rng = np.random.default_rng(seed)
    return [{"w": rng.random((4, 3)) < 0.6} for _ in range(count)]


def prior_of(updates):
    """The data share of devices."""
    return data_share({u.device: u.sample_count for u in updates})


def aggregate_fleet(updates, combining=None, prior=None, theta=None, scoring=None):
    """`aggregate` of the model of SHAPES, weighted by samples unless said otherwise."""
    theta = make_theta() if theta is None else theta
    prior = prior_of(updates) if prior is None else prior
    return aggregate(theta, prior, lambda: iter(updates), ROLES, combining, scoring)
