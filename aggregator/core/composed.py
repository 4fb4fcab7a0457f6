"""A method composed of rules: what most recipes are.

A round: cut by pruning and rates -> devices train -> sum, score, step -> weights learn -> the mask moves, the residual
rule looks after what stands off it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from aggregator.core import dense_model
from aggregator.core.combining import Combining, Mean
from aggregator.core.combining.partial import Answers, Partial, first_pass
from aggregator.core.dense_model import ModelState
from aggregator.core.masks import Mask, supports_of
from aggregator.core.method import Closed, Facts, Memory, Method, Present, RunState, Work
from aggregator.core.pruning import Pruning
from aggregator.core.rating import Fixed, Rating
from aggregator.core.residuals import Residual, Trained
from aggregator.core.scoring import Cosine, Scoring
from aggregator.core.topologies import Dynamic, Topology, Turn
from aggregator.core.weighting import Cgsv, Weighting
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Support

WEIGHTING = "weighting"


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of a composed method, each a table of the settings file of the same name."""

    pruning: Pruning = Pruning()
    topology: Topology = Dynamic()
    residual: Residual = Trained()
    scoring: Scoring = Cosine()
    weighting: Weighting = Cgsv()
    combining: Combining = Mean()
    rates: Rating = Fixed()


def compose(parts: Parts, facts: Facts, *, round_count: int, seed: int) -> Method:
    """The method of these rules, for a model and a run of so many rounds; every draw is keyed by `seed`.

    Raises UsageError for a model without prunable weights.
    """
    composed = _Composed(parts, parts.topology.for_rounds(round_count), facts, seed)
    return Method(
        init=composed.init,
        assign=composed.assign,
        close=composed.close,
        needs_times=parts.rates.needs_times,
        needs_scores=parts.topology.needs_scores,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Composed:
    """The functions of a composed method, bound to its rules."""

    parts: Parts
    topology: Topology
    facts: Facts
    seed: int

    def init(self) -> RunState:
        """The masks by the initial weights, nothing trained, nobody known."""
        pruning, initial = self.parts.pruning, self.facts.initial
        masks = pruning.masks(initial, self.facts.prunable_shapes, pruning.sparsity_at(1))
        model = dense_model.start(initial, masks, self.parts.residual)
        return RunState(model, self._memory(self.parts.weighting.start()))

    def assign(self, state: RunState, round_index: int, members: Mapping[str, Present]) -> dict[str, Work]:
        """The run's mask for everybody, nested masks for whom the rates prune further.

        In the dense rounds rates wait: every device has the whole model, by which the mask is chosen afterwards.
        """
        pruning = self.parts.pruning
        of_run = pruning.sparsity_at(round_index)
        chosen = dict.fromkeys(members, of_run)
        if round_index > pruning.dense_rounds:
            known = {device: member.known for device, member in members.items()}
            weights = self.parts.weighting.weights(self._known(state.memory))
            chosen = self.parts.rates.sparsities(of_run, known, weights)
        adjust = self.topology.adjustment(round_index, pruning)
        works = {sparsity: Work(self._supports(state.model, sparsity, of_run), adjust) for sparsity in chosen.values()}
        return {device: works[chosen[device]] for device in members}

    def _supports(self, model: ModelState, sparsity: float, of_run: float) -> dict[str, Support]:
        """Where the submodel of this sparsity sits, for every parameter."""
        masks: Mapping[str, Mask] = model.masks
        if sparsity > of_run:
            masks = self.parts.pruning.nested(model.theta, masks, sparsity)
        return supports_of(self.facts.shapes, masks)

    def close(self, state: RunState, round_index: int, answers: Answers) -> Closed:
        """Sum, score and step; then weights learn and the mask moves."""
        parts, theta, roles = self.parts, state.model.theta, self.facts.roles
        known = parts.weighting.join(self._known(state.memory), answers.sample_counts)
        partial = self._summed(state.model, parts.weighting.weights(known), answers)
        scores = parts.scoring.scores(partial, answers)
        if list(scores) != [member.device for member in partial.members]:
            raise UsageError("the second pass over the updates met other devices than the first; give the same updates")
        stepped = parts.combining.combine(theta, partial, answers, roles)
        averaged = dense_model.commit_step(state.model, stepped.theta, stepped.covered)
        known = parts.weighting.learn(known, scores)
        after = RunState(self._moved(averaged, round_index, stepped.covered), self._memory(known))
        weights = parts.weighting.weights(known)
        return Closed(averaged, after, {device: weights[device] for device in scores}, scores)

    def _summed(self, model: ModelState, prior: Mapping[str, float], answers: Answers) -> Partial:
        """The first pass; when all participants' r are 0, their sample counts stand in."""
        partial = first_pass(model.theta, prior, iter(answers), self.facts.roles)
        if not partial.members:
            raise UsageError("a round without updates has nothing to average; skip the round")
        if sum(member.weight for member in partial.members) <= 0.0:
            prior = {member.device: float(member.sample_count) for member in partial.members}
            partial = first_pass(model.theta, prior, iter(answers), self.facts.roles)
        return partial

    def _moved(self, model: ModelState, round_index: int, covered: Mapping[str, Mask]) -> ModelState:
        """The mask moved, what was grown set, the residual rule applied.

        A mask moves by what training made of the weights; a tensor of which no device sent a value keeps its mask. Only
        the last dense round prunes that too, by its initial values, as a run without dense rounds would have.
        """
        pruning = self.parts.pruning

        def draws_for(name: str) -> Draws:
            return Draws(self.seed, "regrow", round_index, name)

        turn = Turn(round_index, pruning, model.theta, model.masks, covered, self.facts.initial, draws_for)
        if round_index < pruning.dense_rounds:
            return dense_model.adopt_masks(model, model.masks, self.parts.residual, {})
        if round_index == pruning.dense_rounds:
            masks = pruning.masks(model.theta, self.facts.prunable_shapes, pruning.sparsity)
            return dense_model.adopt_masks(model, masks, self.parts.residual, {})
        moved = self.topology.next_masks(turn)
        masks = {n: mask if np.any(covered[n]) else model.masks[n] for n, mask in moved.items()}
        grown = self.topology.grown_values(turn, masks)
        return dense_model.adopt_masks(model, masks, self.parts.residual, grown)

    def _known(self, memory: Memory) -> object:
        """What the weighting remembers."""
        return msgspec.convert(memory.record[WEIGHTING], self.parts.weighting.Remembered)

    def _memory(self, known: object) -> Memory:
        return Memory({WEIGHTING: msgspec.to_builtins(known)})
