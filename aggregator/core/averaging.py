"""The masked mean: many devices' updates, each on its own support, become one step of the dense model.

Two passes over re-iterable updates, so that memory stays O(model) however many devices there are: the first sums,
the second scores every update against the direction the first one found. Sums run in the order the updates are given,
which must be device order (sorted by name), never order of arrival; then the same updates give the same bits.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aggregator.core.contribution import NORM_MIN, cosine, norm
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Role
from device_runtime.wire.support import FloatArray, Kept, Params, Support

Coverage = Literal["coverage", "residual_mean"]
Step = Literal["raw", "unit", "rescaled"]
Sum = NDArray[np.float64]

SCORED_ROLES: Final[frozenset[Role]] = frozenset({"weight", "bias"})
"""Roles that take part in ψ and are averaged by r; the others are averaged by samples."""
VARIANCE_SUFFIX: Final = "running_var"
"""A statistic whose name ends so is a variance and is kept >= 0."""
RELATIVE_TINY: Final = 1e-9
"""What a float64 subtraction may leave of a weight that was really used up (exclude_self)."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a device sends back: local minus received values on its support, and how many samples it trained on.

    delta: by parameter name; a tensor that the device keeps for itself is not there.
    """

    device: str
    delta: Mapping[str, Kept]
    sample_count: int


@dataclass(frozen=True, slots=True)
class AveragingRule:
    """How sums become a step.

    coverage: "coverage" averages each coordinate over its holders; "residual_mean" over all participants that sent
    the tensor, those without the coordinate counting as no change. step: "raw" averages Δ; "unit" steps Γ U with
    unit-length updates (never anneals); "rescaled" steps U Σ w_n ‖Δ_n‖. unit_length: Γ, for "unit". votes_min: holders
    a coordinate needs to move.
    """

    coverage: Coverage = "coverage"
    step: Step = "raw"
    unit_length: float = 1.0
    votes_min: int = 1

    def __post_init__(self) -> None:
        if self.coverage not in get_args(Coverage):
            raise UsageError(f"coverage is {self.coverage!r}; use one of {', '.join(get_args(Coverage))}")
        if self.step not in get_args(Step):
            raise UsageError(f"step is {self.step!r}; use one of {', '.join(get_args(Step))}")
        if not 0.0 < self.unit_length < math.inf:
            raise UsageError(f"unit_length is {self.unit_length}; give a positive number")
        if self.votes_min < 1:
            raise UsageError(f"votes_min is {self.votes_min}; give at least 1")


@dataclass(frozen=True, slots=True)
class Member:
    """One update inside a Partial: its weight r, its samples and the length ‖Δ‖ over the scored tensors it sent.

    kept_back: the tensors it did not send; for them the device is no participant.
    """

    device: str
    weight: float
    sample_count: int
    norm: float
    kept_back: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums of one tensor over devices, dense: Σ w m x, Σ w m, and how many devices held each coordinate.

    numerator, denominator: float64. holders: int32.
    """

    numerator: Sum
    denominator: Sum
    holders: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """The mergeable outcome of the first pass over some of the updates; what a gateway would send upstream.

    step: x = Δ, weighted by r (scored roles) or samples. direction: x = Δ/‖Δ‖, weighted by r, scored tensors only.
    """

    step: dict[str, Tally]
    direction: dict[str, Tally]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Aggregated:
    """The outcome of a round. theta: float32, dense. covered: True where at least one update moved the coordinate
    (every tensor). scores: ψ and norms: ‖Δ‖ by device, in the order of the updates."""

    theta: dict[str, FloatArray]
    covered: dict[str, NDArray[np.bool_]]
    scores: dict[str, float]
    norms: dict[str, float]


def aggregate(
    theta: Params,
    prior: Mapping[str, float],
    updates: Callable[[], Iterator[Update]],
    rule: AveragingRule,
    roles: Mapping[str, Role],
    *,
    exclude_self: bool = False,
) -> Aggregated:
    """One aggregation: the next dense model and every device's contribution.

    U_i = Σ w m u / Σ w m with u = Δ/‖Δ‖;  ψ_n = <u_n, m_n U> / (‖u_n‖ ‖m_n U‖);  θ_i <- θ_i + D_i, where D is
    Σ w m Δ / Σ w m (FedAvg, McMahan et al., AISTATS 2017, per coordinate over its holders as in HeteroFL and FedDST)
    or another step of the rule. Weights and biases: w = r of `prior`; "norm" and "statistic": w = samples, outside ψ.

    theta: float32, dense. prior: r by device (any positive scale); when all participants' r are 0, their sample counts
    stand in. updates: gives a fresh iterator, the same updates in device order, at every call (two calls; a third one
    in the case just named). exclude_self: ψ against U without the device itself.
    A coordinate without holders (or with fewer than votes_min) keeps its bits. An update shorter than NORM_MIN has
    ψ = 0 and does not enter U, but does count in the raw mean. Running variances are clamped at 0.
    Raises UsageError for no updates, a device twice or without a weight, a tensor that is unknown, of another shape
    or not finite, and when the step itself overflows float32.
    """
    partial = first_pass(theta, prior, updates(), roles)
    if not partial.members:
        raise UsageError("a round without updates has nothing to average; skip the round")
    if sum(member.weight for member in partial.members) <= 0.0:
        prior = {member.device: float(member.sample_count) for member in partial.members}
        partial = first_pass(theta, prior, updates(), roles)
    psi = _scores(partial, updates(), exclude_self)
    if list(psi) != [member.device for member in partial.members]:
        raise UsageError("the second pass over the updates met other devices than the first; give the same updates")
    moved, covered = apply(theta, partial, rule, roles)
    return Aggregated(moved, covered, psi, {member.device: member.norm for member in partial.members})


def first_pass(
    theta: Params, prior: Mapping[str, float], updates: Iterator[Update], roles: Mapping[str, Role]
) -> Partial:
    """Sum the updates, one at a time; the caller's order is the order of summation. Errors as `aggregate`."""
    scored = [name for name in theta if _role(roles, name) in SCORED_ROLES]
    step = {name: _empty(value.shape) for name, value in theta.items()}
    direction = {name: _empty(theta[name].shape) for name in scored}
    members: dict[str, Member] = {}
    for update in updates:
        member = _member(update, theta, prior, scored)
        if update.device in members:
            raise UsageError(f"device {update.device!r} sent two updates in one round; keep the first one")
        members[update.device] = member
        for name, kept in update.delta.items():
            is_scored = name in direction
            _add(step[name], kept, member.weight if is_scored else float(member.sample_count), 1.0)
            if is_scored and member.norm >= NORM_MIN:
                _add(direction[name], kept, member.weight, 1.0 / member.norm)
    return Partial(step, direction, tuple(members.values()))


def merge(a: Partial, b: Partial) -> Partial:
    """The Partial of both sets of updates; associative up to rounding.

    Raises UsageError when a device is in both, or the models differ.
    """
    twice = {m.device for m in a.members} & {m.device for m in b.members}
    if twice:
        raise UsageError(f"device {min(twice)!r} is in both partial sums; send each update to one gateway only")
    if set(a.step) != set(b.step) or set(a.direction) != set(b.direction):
        raise UsageError("the two partial sums are of different models; merge partial sums of one model version")
    return Partial(
        {name: _sum(tally, b.step[name]) for name, tally in a.step.items()},
        {name: _sum(tally, b.direction[name]) for name, tally in a.direction.items()},
        a.members + b.members,
    )


def apply(
    theta: Params, partial: Partial, rule: AveragingRule, roles: Mapping[str, Role]
) -> tuple[dict[str, FloatArray], dict[str, NDArray[np.bool_]]]:
    """The dense model after the step, and which coordinates moved. Errors as `aggregate`."""
    moved: dict[str, FloatArray] = {}
    covered: dict[str, NDArray[np.bool_]] = {}
    for name, old in theta.items():
        change, where = _change(name, partial, rule)
        with np.errstate(over="ignore"):  # caught below, with a sentence
            new = (old.astype(np.float64) + change).astype(np.float32)
        if roles[name] == "statistic" and name.endswith(VARIANCE_SUFFIX):
            new = np.maximum(new, np.float32(0.0))
        if not np.isfinite(new[where]).all():
            raise UsageError(f"the step takes {name!r} beyond float32; lower the learning rate")
        moved[name] = np.where(where, new, old)
        covered[name] = where
    return moved, covered


def directions(partial: Partial) -> dict[str, Sum]:
    """U of the scored tensors, float64, dense: the weighted mean of unit updates over each coordinate's holders."""
    return {name: _ratio(tally.numerator, tally.denominator) for name, tally in partial.direction.items()}


def score(update: Update, direction: Mapping[str, Sum]) -> float:
    """ψ = cos(Δ, m U) of one update on its own support: the second pass, which a gateway can do downstream."""
    return cosine((kept.values, _on(kept.support, direction[n])) for n, kept in update.delta.items() if n in direction)


def _scores(partial: Partial, updates: Iterator[Update], exclude_self: bool) -> dict[str, float]:
    """ψ by device, in the order of the updates."""
    members = {member.device: member for member in partial.members}
    direction = {} if exclude_self else directions(partial)
    psi: dict[str, float] = {}
    for update in updates:
        member = members.get(update.device)
        if member is None or member.norm < NORM_MIN:
            psi[update.device] = 0.0
        elif exclude_self:
            psi[update.device] = _score_against_others(update, member, partial)
        else:
            psi[update.device] = score(update, direction)
    return psi


def _score_against_others(update: Update, member: Member, partial: Partial) -> float:
    """ψ against U without this device: its own share is taken out of the sums, on its support only."""

    def pairs() -> Iterator[tuple[FloatArray, Sum]]:
        for name, kept in update.delta.items():
            if name not in partial.direction:
                continue
            tally = partial.direction[name]
            weights = _on(kept.support, tally.denominator)
            others = weights - member.weight
            others[others <= RELATIVE_TINY * weights] = 0.0
            own = kept.values.astype(np.float64) * (member.weight / member.norm)
            yield kept.values, _ratio(_on(kept.support, tally.numerator) - own, others)

    return cosine(pairs())


def _change(name: str, partial: Partial, rule: AveragingRule) -> tuple[Sum, NDArray[np.bool_]]:
    """D of one tensor and where it applies."""
    raw = partial.step[name]
    where = (raw.denominator > 0.0) & (raw.holders >= rule.votes_min)
    is_scored = name in partial.direction
    senders = [m for m in partial.members if name not in m.kept_back]
    if not is_scored or rule.step == "raw":
        total = sum(m.weight if is_scored else float(m.sample_count) for m in senders)
        return _mean(raw, total, rule.coverage), where
    directed = [m for m in senders if m.norm >= NORM_MIN]
    direction = _mean(partial.direction[name], sum(m.weight for m in directed), rule.coverage)
    if rule.step == "unit":
        return direction * rule.unit_length, where
    weight = sum(m.weight for m in senders)
    length = sum(m.weight * m.norm for m in directed) / weight if weight > 0.0 else 0.0
    return direction * length, where


def _mean(tally: Tally, total: float, coverage: Coverage) -> Sum:
    """Over the holders of each coordinate, or over everybody (`total` is their summed weight)."""
    if coverage == "coverage":
        return _ratio(tally.numerator, tally.denominator)
    return tally.numerator / total if total > 0.0 else np.zeros_like(tally.numerator)


def _ratio(numerator: Sum, denominator: Sum) -> Sum:
    """numerator / denominator, 0 where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)


def _member(update: Update, theta: Params, prior: Mapping[str, float], scored: list[str]) -> Member:
    """The update's weight, samples and length, after checking that it can be summed."""
    weight = prior.get(update.device)
    if weight is None or not 0.0 <= weight < math.inf:
        raise UsageError(f"device {update.device!r} has the weight {weight}; give it one of at least 0")
    if update.sample_count < 0:
        raise UsageError(f"device {update.device!r} reports {update.sample_count} samples; a count is at least 0")
    for name, kept in update.delta.items():
        if name not in theta or kept.support.shape != theta[name].shape:
            raise UsageError(f"the update of {update.device!r} has a tensor {name!r} that does not fit the model")
        if not np.isfinite(kept.values).all():
            raise UsageError(f"the update of {update.device!r} is not finite in {name!r}; leave it out of the round")
    length = norm(update.delta[name].values for name in scored if name in update.delta)
    return Member(update.device, float(weight), update.sample_count, length, frozenset(theta) - frozenset(update.delta))


def _role(roles: Mapping[str, Role], name: str) -> Role:
    if name not in roles:
        raise UsageError(f"the parameter {name!r} has no role; take the roles from the artifact's parameter table")
    return roles[name]


def _empty(shape: tuple[int, ...]) -> Tally:
    return Tally(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int32))


def _add(tally: Tally, kept: Kept, weight: float, scale: float) -> None:
    """Add one update to a tally that `first_pass` owns: in place, for memory's sake."""
    index = _index(kept.support)
    values = (kept.values.astype(np.float64) * (weight * scale)).reshape(_block_shape(kept.support))
    tally.numerator[index] += values
    tally.denominator[index] += weight
    tally.holders[index] += 1


def _sum(a: Tally, b: Tally) -> Tally:
    return Tally(a.numerator + b.numerator, a.denominator + b.denominator, a.holders + b.holders)


def _on(support: Support, dense: Sum) -> Sum:
    """The values of a dense float64 tensor on a support, flat, a fresh array (`Support.gather` is float32's)."""
    return np.array(dense[_index(support)]).ravel()


def _index(support: Support) -> Any:
    """The numpy index that selects a support in flat order."""
    if support.kind == "mask":
        return support.mask
    if support.kind == "axes":
        assert support.indices is not None
        return np.ix_(*support.indices)
    return ...


def _block_shape(support: Support) -> tuple[int, ...]:
    """The shape numpy gives to a tensor indexed by `_index`."""
    if support.kind == "axes":
        assert support.indices is not None
        return tuple(len(i) for i in support.indices)
    return (support.count,) if support.kind == "mask" else support.shape
