"""The dense model the aggregator keeps while devices train a part of it: what stands off the mask, and why.

A round reads: state -> `cut(state.theta, supports)` to the devices -> averaging -> `commit_step` -> evaluate dense
(`state.theta`) and sparse (`sparse_params(state)`) -> the topology's next masks -> `adopt_masks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.core.residuals import Residual
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import FloatArray, Params

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """The dense model and the two facts that decide its residual.

    theta: every parameter, float32, dense. masks: bool, same shape, prunable names only (True = kept).
    trained: bool, same names as masks, True where some device has trained the coordinate at least once.
    """

    theta: dict[str, FloatArray]
    masks: dict[str, NDArray[np.bool_]]
    trained: dict[str, NDArray[np.bool_]]


def start(initial: Params, masks: Masks, rule: Residual) -> ModelState:
    """The state before round 1: nothing is trained.

    With the rule "keep" theta is the full initial model, so the residual holds untrained initial weights; with
    "trained" and "zero" theta is zero off the mask, since no coordinate has been trained yet. `masks` must be the
    widest masks any device will receive in the first round, or a wider device would start from zeros.
    Raises UsageError when a mask names no parameter or has another shape.
    """
    untrained = {name: np.zeros(mask.shape, dtype=np.bool_) for name, mask in masks.items()}
    state = ModelState(dict(initial), dict(masks), untrained)
    _check_masks(state, masks)
    return adopt_masks(state, masks, rule, {})


def sparse_params(state: ModelState) -> dict[str, FloatArray]:
    """The sparse model m·θ: theta with zeros off the mask; tensors without a mask as they are."""
    return {n: _zero_off(p, state.masks[n]) if n in state.masks else p for n, p in state.theta.items()}


def commit_step(state: ModelState, new_theta: Params, covered: Masks) -> ModelState:
    """The state after averaging: `new_theta`, with the covered coordinates marked as trained.

    covered: True where at least one update moved the coordinate; it may reach beyond `state.masks` when some devices
    hold more than the common mask. Raises UsageError unless every uncovered coordinate of a masked tensor has the very
    same bits as before, and all values are finite float32.
    """
    _check_names(state.theta, new_theta)
    if not set(state.masks) <= set(covered):
        raise UsageError("the covered coordinates of a masked tensor are missing; pass `Aggregated.covered`")
    _check_masks(state, covered)
    trained = dict(state.trained)
    for name, new in new_theta.items():
        old = state.theta[name]
        if new.dtype != np.float32 or new.shape != old.shape or not np.isfinite(new).all():
            raise UsageError(f"the averaged tensor {name!r} must be finite float32 of shape {old.shape}")
        if name in state.masks:
            moved = new.view(np.uint32) != old.view(np.uint32)
            if np.any(moved & ~covered[name]):
                raise UsageError(f"averaging moved coordinates of {name!r} that no device held")
            trained[name] = state.trained[name] | covered[name]
    return ModelState(dict(new_theta), state.masks, trained)


def adopt_masks(state: ModelState, new_masks: Masks, rule: Residual, grown: Params) -> ModelState:
    """The state on new masks, with the residual rule applied to everything off them.

    grown: dense float32 values for the newly kept coordinates (`Topology.grown_values`); a name that is missing keeps
    theta's stored values there. As in `start`, the masks are the widest ones any device will receive, so that nothing
    a device holds is zeroed under it.
    Raises UsageError for a mask of another shape or other names than before.
    """
    _check_masks(state, new_masks)
    if set(new_masks) != set(state.masks):
        raise UsageError("the new masks must be for the same weights as the old ones")
    theta = dict(state.theta)
    for name, mask in new_masks.items():
        values = theta[name]
        if name in grown:
            values = _select(mask & ~state.masks[name], grown[name], values)
        theta[name] = _zero_off(values, rule.kept(mask, state.trained[name]))
    return ModelState(theta, dict(new_masks), state.trained)


def _zero_off(values: FloatArray, mask: NDArray[np.bool_]) -> FloatArray:
    """`values` where the mask is True, +0 elsewhere (a product would leave -0 and spread NaN)."""
    return np.where(mask, values, np.float32(0.0))


def _select(mask: NDArray[np.bool_], inside: FloatArray, outside: FloatArray) -> FloatArray:
    """`inside` where the mask is True, `outside` elsewhere; both float32."""
    return np.where(mask, inside.astype(np.float32, copy=False), outside)


def _check_masks(state: ModelState, masks: Masks) -> None:
    """Every mask belongs to a tensor of theta and has its shape."""
    for name, mask in masks.items():
        if name not in state.theta or mask.dtype != np.bool_ or mask.shape != state.theta[name].shape:
            raise UsageError(f"the mask {name!r} fits no tensor of the model; masks are bool, of the weight's shape")


def _check_names(theta: Params, other: Params) -> None:
    """`other` has exactly the tensors of the model."""
    if set(theta) != set(other):
        odd = sorted(set(theta) ^ set(other))[0]
        raise UsageError(f"the tensor {odd!r} is in the model or in the step, but not in both")
