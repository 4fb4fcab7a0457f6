"""What is trained in a profile run: an assignment, its blobs and samples, drawn from seed and manifest alone.

A profile needs no data and no initial model. Masks keep an exact, equal share of every prunable tensor, at positions
drawn at random: the cost of today's kernels does not depend on which weights are kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.data import Samples
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Manifest, Parameter
from device_runtime.wire.messages import Assignment, Hyper
from device_runtime.wire.submodel import encode_kept, encode_supports
from device_runtime.wire.support import FloatArray, Kept, Support, sha256_hex

BATCHES = 4
LEARNING_RATE = 0.001
_TTL_S = 1.0
DATA_WORDS = "normal inputs and uniform labels, 4 batches in turn, learning rate 0.001"
MASK_WORDS = "random positions, the same exact share of every prunable tensor"


def supports(manifest: Manifest, sparsity: float, seed: int) -> dict[str, Support]:
    """A mask with exactly count - round(sparsity × count) kept elements, at least one, per prunable tensor.

    At sparsity 0 every element is kept. Other parameters are whole. Raises UsageError for a sparsity out of [0, 1).
    """
    if not 0.0 <= sparsity < 1.0:
        raise UsageError(f"sparsity {sparsity:g} is out of range: give values from 0 up to, not including, 1.")
    return {p.name: _support(p, sparsity, seed) for p in manifest.parameters}


def _support(parameter: Parameter, sparsity: float, seed: int) -> Support:
    if not parameter.prunable or sparsity == 0.0:
        return Support.everything(parameter.shape)
    count = math.prod(parameter.shape)
    kept = max(1, count - round(sparsity * count))
    mask = np.zeros(count, dtype=np.bool_)
    mask[Draws(seed, "profile mask", parameter.name).permutation(count)[:kept]] = True
    return Support.from_mask(mask.reshape(parameter.shape))


def kept_counts(manifest: Manifest, chosen: Mapping[str, Support]) -> dict[str, int]:
    """Kept elements of every prunable tensor."""
    return {name: chosen[name].count for name in manifest.prunable}


def values(manifest: Manifest, chosen: Mapping[str, Support], seed: int) -> dict[str, Kept]:
    """Weights by He's rule, biases zero, scales, shifts and statistics of normalisations one."""
    return {p.name: Kept.of(_dense(p, seed), chosen[p.name]) for p in manifest.parameters}


def _dense(parameter: Parameter, seed: int) -> FloatArray:
    shape = parameter.shape
    if parameter.role == "bias":
        return np.zeros(shape, dtype=np.float32)
    if parameter.role != "weight":
        return np.ones(shape, dtype=np.float32)
    count = math.prod(shape)
    fan_in = max(1, count // shape[0]) if shape else 1
    drawn = Draws(seed, "profile values", parameter.name).normal(count) * math.sqrt(2.0 / fan_in)
    return drawn.astype(np.float32).reshape(shape)


def samples(manifest: Manifest, batch_size: int, seed: int) -> Samples:
    """Samples for so many whole batches: x float32[n, ...] and labels as the model's loss needs them."""
    parts = [_batch(manifest, batch_size, Draws(seed, "profile batch", index)) for index in range(BATCHES)]
    return Samples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


@dataclass(frozen=True, slots=True)
class Sent:
    """What an aggregator would send: an assignment of one epoch, and its two blobs."""

    assignment: Assignment
    params: bytes
    supports: bytes


def sent(kept: Mapping[str, Kept], graph_sha: str, batch_size: int, seed: int) -> Sent:
    """The submodel `kept` as blobs, and the assignment to train it."""
    params = encode_kept(dict(kept), lambda _: "fp32", lambda name: Draws(seed, "profile rounding", name))
    found = encode_supports({n: k.support for n, k in kept.items()})
    assignment = Assignment(
        id="profile",
        device="profile",
        model_version=0,
        graph_sha=graph_sha,
        params_sha=sha256_hex(params),
        support_shas=(sha256_hex(found),),
        hyper=Hyper(seed=seed, epoch_count=1, batch_size=batch_size, learning_rate=LEARNING_RATE, update_dtype="fp32"),
        ttl_s=_TTL_S,
    )
    return Sent(assignment, params, found)


def _batch(manifest: Manifest, size: int, draws: Draws) -> Samples:
    shape = (size, *manifest.input.shape)
    x = draws.normal(math.prod(shape)).astype(np.float32).reshape(shape)
    if manifest.loss == "cross_entropy":
        return Samples(x, draws.below(size, manifest.class_count))
    targets: NDArray[np.float64] = draws.uniform(size * manifest.class_count)
    if manifest.loss == "bce_with_logits":
        targets = np.round(targets)
    return Samples(x, targets.astype(np.float32).reshape(size, manifest.class_count))
