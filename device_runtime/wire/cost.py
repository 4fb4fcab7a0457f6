"""What a FLOP is, and the three figures of a training step that are never mixed.

One multiply-add counts as 2 FLOPs. Counted are the contractions (Conv, ConvTranspose, Gemm, MatMul): forward, the
gradient of the input (none for a node whose input needs no gradient) and the gradient of the weight. Bias, activation,
pooling, normalisation, loss and optimizer are not counted, as in torch's flop counter, so that figures compare.

* dense: every weight counted, pruned or not.
* ideal: only kept weights counted; what a perfect sparse kernel would do.
* executed: what the kernels that ran did, which each engine counts by a rule of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from device_runtime.wire.limits import SAMPLE_FLOPS_MAX

Flop = Annotated[int, Meta(ge=0, le=SAMPLE_FLOPS_MAX)]


class NodeCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Dense FLOPs of one graph node for one sample.

    `weight` names the parameter contracted ("" where both operands are activations) and `weight_count` its elements.
    `flops_lists_input` is what engine sparse executes for the gradient of the input with every weight kept; 0 where
    that is `flops_backward_input`.
    """

    node: str
    op: str
    weight: str
    weight_count: Flop
    flops_forward: Flop
    flops_backward_input: Flop
    flops_backward_weight: Flop
    flops_lists_input: Flop = 0

    @property
    def flops(self) -> int:
        """Forward and backward together, for one sample."""
        return self.flops_forward + self.flops_backward_input + self.flops_backward_weight


class Flops(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The three figures, in FLOPs."""

    dense: int
    ideal: int
    executed: int

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.dense + other.dense, self.ideal + other.ideal, self.executed + other.executed)


class Executed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What kernels did for one contraction: in its forward and its backward pass, and to mask its weight in both."""

    forward: int
    backward: int
    masking: int


class KernelCost(Protocol):
    """How an engine's kernels count: what they execute of a contraction in `steps` steps over `samples` samples.

    `kept_count` is the number of kept elements of its weight, None where the weight has no mask. Masking is counted
    once for a weight that several contractions share, so it depends on the weight and not on the contraction.
    """

    def __call__(self, row: NodeCost, kept_count: int | None, *, samples: int, steps: int) -> Executed: ...


def masked_dense(row: NodeCost, kept_count: int | None, *, samples: int, steps: int) -> Executed:
    """Dense kernels behind a mask: the dense count, and one operation per masked weight in either pass of each step."""
    return Executed(
        forward=samples * row.flops_forward,
        backward=samples * (row.flops_backward_input + row.flops_backward_weight),
        masking=0 if kept_count is None else 2 * steps * row.weight_count,
    )


def sparse(row: NodeCost, kept_count: int | None, *, samples: int, steps: int) -> Executed:
    """Kernels that work through lists of kept weights: the kept share of what they do with every weight kept."""
    kept, whole = row.weight_count if kept_count is None else kept_count, row.weight_count
    if not row.weight:
        kept = whole = 1
    return Executed(
        forward=samples * row.flops_forward * kept // whole,
        backward=samples * (row.flops_lists_input or row.flops_backward_input) * kept // whole
        + samples * row.flops_backward_weight * kept // whole,
        masking=0,
    )


def flops(
    table: Iterable[NodeCost],
    kept_counts: Mapping[str, int],
    kernel_cost: KernelCost,
    *,
    samples: int,
    steps: int,
) -> Flops:
    """FLOPs of `steps` training steps that see `samples` samples in all.

    `kept_counts` gives the kept elements of each masked weight; a weight it does not name is whole.

    >>> row = NodeCost(node="fc", op="Gemm", weight="w", weight_count=10, flops_forward=20,
    ...                flops_backward_input=0, flops_backward_weight=20)
    >>> flops([row], {"w": 5}, masked_dense, samples=3, steps=1)
    Flops(dense=120, ideal=60, executed=140)
    """
    rows = list(table)
    dense = samples * sum(row.flops for row in rows)
    ideal = sum(
        samples * row.flops * kept_counts.get(row.weight, row.weight_count) // max(row.weight_count, 1)
        if row.weight
        else samples * row.flops
        for row in rows
    )
    done = [(row, kernel_cost(row, kept_counts.get(row.weight), samples=samples, steps=steps)) for row in rows]
    masking = {row.weight: one.masking for row, one in done}
    return Flops(dense, ideal, sum(one.forward + one.backward for _, one in done) + sum(masking.values()))


def flops_of_scores(
    table: Iterable[NodeCost], kept_counts: Mapping[str, int], kernel_cost: KernelCost, *, samples: int
) -> Flops:
    """FLOPs of the gradient of every weight, pruned ones too, over a batch of `samples` samples.

    dense: those of a training step. ideal: kept weights only in the forward pass and for the gradient of the input,
    but every weight for its own gradient, since all of them are asked for. executed: what the kernel does without a
    mask; the masks of ones that engine ort_training reads meanwhile are not counted.

    >>> row = NodeCost(node="fc", op="Gemm", weight="w", weight_count=10, flops_forward=20,
    ...                flops_backward_input=20, flops_backward_weight=20)
    >>> flops_of_scores([row], {"w": 5}, masked_dense, samples=3)
    Flops(dense=180, ideal=120, executed=180)
    """
    rows = list(table)
    kept, whole = (flops(rows, counts, kernel_cost, samples=samples, steps=1) for counts in (kept_counts, {}))
    gone = sum(
        samples * row.flops_backward_weight * (row.weight_count - kept_counts[row.weight]) // row.weight_count
        for row in rows
        if row.weight in kept_counts
    )
    return Flops(whole.dense, kept.ideal + gone, whole.executed)
