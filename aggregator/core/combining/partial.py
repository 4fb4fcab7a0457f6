"""Updates summed, one at a time: what a first pass over them gives, and what two gateways' passes merge to.

The caller's order is the order of summation. A `Partial` is what a gateway would send upstream.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregator.core.vectors import NORM_MIN, norm
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Role
from device_runtime.wire.support import Kept, Params, Support

Sum = NDArray[np.float64]

SCORED_ROLES: Final[frozenset[Role]] = frozenset({"weight", "bias"})
"""Roles that take part in ψ and are averaged by r; the others are averaged by samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a device sends back: local minus received values on its support, and how many samples it trained on.

    delta: by parameter name; a tensor that the device keeps for itself is not there.
    """

    device: str
    delta: Mapping[str, Kept]
    sample_count: int


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The updates of a round, to be gone through again and again: a round is never in memory as a whole.

    sample_counts: of the devices that sent them, in order of names. updates: gives a fresh iterator, the same updates
    in that order, at every call.
    """

    sample_counts: Mapping[str, int]
    updates: Callable[[], Iterator[Update]]

    def __iter__(self) -> Iterator[Update]:
        return self.updates()


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


def first_pass(
    theta: Params, prior: Mapping[str, float], updates: Iterator[Update], roles: Mapping[str, Role]
) -> Partial:
    """Sum the updates, one at a time; the caller's order is the order of summation.

    theta: float32, dense. prior: r by device (any positive scale). An update shorter than NORM_MIN does not enter the
    direction, but does count in the step.
    Raises UsageError for a device twice or without a weight, a tensor that is unknown, of another shape or not finite.
    """
    scored = [name for name in theta if _role(roles, name) in SCORED_ROLES]
    step = {name: _Summing(value.shape) for name, value in theta.items()}
    direction = {name: _Summing(theta[name].shape) for name in scored}
    members: dict[str, Member] = {}
    for update in updates:
        member = _member(update, theta, prior, scored)
        if update.device in members:
            raise UsageError(f"device {update.device!r} sent two updates in one round; keep the first one")
        members[update.device] = member
        for name, kept in update.delta.items():
            is_scored = name in direction
            step[name].add(kept, member.weight if is_scored else float(member.sample_count), 1.0)
            if is_scored and member.norm >= NORM_MIN:
                direction[name].add(kept, member.weight, 1.0 / member.norm)
    return Partial(_tallies(step), _tallies(direction), tuple(members.values()))


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


def ratio(numerator: Sum, denominator: Sum) -> Sum:
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


class _Summing:
    """A tally under way, changed in place for memory's sake.

    Devices share supports: what those of one support send, one after the other, is summed on it alone, and put in its
    place in the dense tensor when another support comes. Each coordinate sees the same sums in the same order.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._tally = Tally(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int32))
        self._support: Support | None = None
        self._block = self._tally  # its part on the support

    def add(self, kept: Kept, weight: float, scale: float) -> None:
        """Add one update."""
        if self._support is None or self._support.sha != kept.support.sha:
            self.tally()
            self._support, index = kept.support, _index(kept.support)
            self._block = Tally(
                *(a[index] for a in (self._tally.numerator, self._tally.denominator, self._tally.holders))
            )
        block, values = self._block, kept.values.astype(np.float64) * (weight * scale)
        np.add(block.numerator, values.reshape(block.numerator.shape), out=block.numerator)
        np.add(block.denominator, weight, out=block.denominator)
        np.add(block.holders, 1, out=block.holders)

    def tally(self) -> Tally:
        """What was summed so far."""
        if self._support is not None:
            index, whole = _index(self._support), self._tally
            whole.numerator[index] = self._block.numerator
            whole.denominator[index] = self._block.denominator
            whole.holders[index] = self._block.holders
        return self._tally


def _tallies(sums: Mapping[str, _Summing]) -> dict[str, Tally]:
    return {name: summing.tally() for name, summing in sums.items()}


def _sum(a: Tally, b: Tally) -> Tally:
    return Tally(a.numerator + b.numerator, a.denominator + b.denominator, a.holders + b.holders)


def on_support(support: Support, dense: Sum) -> Sum:
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
