"""A method: how a run decides, as a value of pure functions over rounds that are open.

    init ── per round: admit ── assign ── (devices train) ── close ── …

What a method learns from round to round is its `Memory`, which is committed with the round and is there again after a
kill; the shell keeps it and never looks inside. Most methods are composed of rules (`compose`); one that is not is its
own functions in a `Method`. The shape is FedJAX's (Ro et al., 2021), with assigning in front, since devices here are
given different submodels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.core.combining.partial import Answers
from aggregator.core.dense_model import ModelState
from aggregator.core.rating.round_cost import NOTHING_KNOWN, Known
from device_runtime.wire.manifest import Role
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import Params, Support


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What a method may know of the model: its tensors in table order, their roles, which may be pruned, and the values
    before round 1 (float32, dense)."""

    shapes: Mapping[str, tuple[int, ...]]
    roles: Mapping[str, Role]
    prunable: frozenset[str]
    initial: Params

    @property
    def prunable_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that may be pruned, in table order."""
        return {name: shape for name, shape in self.shapes.items() if name in self.prunable}


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a method remembers: a record that JSON can hold, and named tensors of any dtype the wire knows."""

    record: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """What a committed round leaves behind: the model (dense, masks, what was trained) and the method's memory."""

    model: ModelState
    memory: Memory


@dataclass(frozen=True, slots=True)
class Present:
    """A member as a round opens: its samples, as its hello says, and what is known of its times."""

    sample_count: int
    known: Known = NOTHING_KNOWN


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What one device is to do: train the submodel on `supports` (every parameter), and what it does to its own mask.

    Devices with the same submodel share one mapping, so that it is cut and stored once.
    """

    supports: Mapping[str, Support]
    adjust: MaskAdjustment | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """What closing a round gave.

    averaged: the model after the step, on the masks of the round: what is evaluated. state: what the next round begins
    with. weights, scores: r after the round and ψ of every device that took part.
    """

    averaged: ModelState
    state: RunState
    weights: Mapping[str, float]
    scores: Mapping[str, float]


def _unchanged(memory: Memory, _members: Mapping[str, Present]) -> Memory:
    return memory


@dataclass(frozen=True, slots=True)
class Method:
    """A method of federated training.

    init(): the state before round 1.
    assign(state, round_index, members): the work of every member, by name.
    close(state, round_index, answers): the round's end; `answers` gives the accepted updates, in order of device
      names, again and again: a round is never in memory as a whole. Raises UsageError for updates that cannot be put
      together.
    admit(memory, members): the memory as a round opens, with what the members say of themselves; it is called again
      after a restart, so the same members must give the same memory.
    needs_times: whether the times of devices decide, so that somebody must have measured them.
    needs_scores: whether devices are asked for gradients of weights off the mask, so that artifacts must give them.
    """

    init: Callable[[], RunState]
    assign: Callable[[RunState, int, Mapping[str, Present]], Mapping[str, Work]]
    close: Callable[[RunState, int, Answers], Closed]
    admit: Callable[[Memory, Mapping[str, Present]], Memory] = _unchanged
    needs_times: bool = False
    needs_scores: bool = False
