"""What a FLOP is, and the three figures of a training step that are never mixed.

One multiply-add counts as 2 FLOPs. Counted are the contractions (Conv, ConvTranspose, Gemm, MatMul): forward, the
gradient of the input (none for a node whose input needs no gradient) and the gradient of the weight. Bias, activation,
pooling, normalisation, loss and optimizer are not counted, as in torch's flop counter, so that figures compare.

* dense: every weight counted, pruned or not.
* ideal: only kept weights counted; what a perfect sparse kernel would do.
* executed: what the kernel that ran did. A masked dense kernel executes the dense count plus the masking, one
  operation per masked weight in the forward and one in the backward pass of each step.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

Kernel = Literal["masked-dense", "dense"]


class NodeCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dense FLOPs of one graph node for one sample.

    `weight` names the parameter contracted ("" where both operands are activations) and `weight_count` its elements.
    """

    node: str
    op: str
    weight: str
    weight_count: int
    flops_forward: int
    flops_backward_input: int
    flops_backward_weight: int

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


def flops(
    table: Iterable[NodeCost],
    kept_counts: Mapping[str, int],
    kernel: Kernel,
    *,
    samples: int,
    steps: int,
) -> Flops:
    """FLOPs of `steps` training steps that see `samples` samples in all.

    `kept_counts` gives the kept elements of each masked weight; a weight it does not name is whole.

    >>> row = NodeCost(node="fc", op="Gemm", weight="w", weight_count=10, flops_forward=20,
    ...                flops_backward_input=0, flops_backward_weight=20)
    >>> flops([row], {"w": 5}, "masked-dense", samples=3, steps=1)
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
    masked = {row.weight: row.weight_count for row in rows if row.weight in kept_counts}
    masking = 2 * steps * sum(masked.values()) if kernel == "masked-dense" else 0
    return Flops(dense, ideal, dense + masking)
