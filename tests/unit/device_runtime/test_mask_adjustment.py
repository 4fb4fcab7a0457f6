"""Which weights go and which come, by hand, and against sorted lists."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from device_runtime.mask_adjustment import Move, move
from device_runtime.wire.errors import LocalWireError
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.support import Kept, Support
from tests.fakes import QUICK


def moved(weight, mask, scores, share: float) -> Move | None:
    """The move of a tensor given as plain lists."""
    support = Support.from_mask(np.array(mask, dtype=bool))
    kept = Kept.of(np.array(weight, dtype=np.float32), support)
    return move("w", kept, np.array(scores, dtype=np.float32), MaskAdjustment(after_epochs=1, share=share))


def masks(found: Move | None) -> tuple[list, list]:
    """The two masks as ones and zeros."""
    assert found is not None
    return found.reduced.dense_mask().astype(int).tolist(), found.grown.dense_mask().astype(int).tolist()


def test_the_smallest_kept_go_and_the_largest_gradients_off_the_mask_come() -> None:
    # Kept are 5, -1, 3, -4 (flat 0, 2, 3, 5); half of four go: -1 and 3. Off the mask are then 1, 2, 3, 4 with the
    # scores 7, 1, 2, 9: those at 4 and 1 come. The 100 at 0 belongs to a kept weight and does not count.
    found = moved([[5, 0, -1], [3, 0, -4]], [[1, 0, 1], [1, 0, 1]], [[100, 7, 1], [2, 9, 50]], 0.5)
    assert masks(found) == ([[1, 0, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1]])


def test_a_weight_that_has_just_gone_may_come_back() -> None:
    found = moved([2, 1, 0, 0], [1, 1, 0, 0], [0, 9, 3, 4], 0.5)
    assert masks(found) == ([1, 0, 0, 0], [1, 1, 0, 0])


def test_of_equal_ones_the_lower_index_stays_and_comes() -> None:
    found = moved([1, -1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 5, 5, 5], 0.4)
    assert masks(found) == ([1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0])


def test_a_kept_zero_goes_before_anything_else_kept_and_gradients_of_zero_come_in_order() -> None:
    found = moved([0, 1, 0, 2], [1, 1, 0, 1], [0, 0, 0, 0], 0.34)
    assert masks(found) == ([0, 1, 0, 1], [1, 1, 0, 1])


@pytest.mark.parametrize(
    ("mask", "share", "why"),
    [([1, 1, 1, 1], 0.5, "a whole tensor has nothing off its mask"), ([1, 1, 0, 0], 0.4, "less than one would go")],
)
def test_a_tensor_stays(mask, share, why) -> None:
    assert moved([1, 2, 3, 4], mask, [1, 1, 1, 1], share) is None, why


@pytest.mark.parametrize(("weight", "scores"), [([1, math.nan, 0], [1, 1, 1]), ([1, 2, 0], [1, 1, math.inf])])
def test_a_diverged_training_moves_no_mask(weight, scores) -> None:
    with pytest.raises(LocalWireError, match="'w' has values or gradients that are not finite"):
        moved(weight, [1, 1, 0], scores, 0.5)


@QUICK
@given(st.data())
def test_masks_are_those_of_sorted_lists(data) -> None:
    size = data.draw(st.integers(2, 30))
    few = st.integers(0, 4).map(float)  # many ties
    weight = data.draw(hnp.arrays(np.float32, size, elements=few))
    scores = data.draw(hnp.arrays(np.float32, size, elements=few))
    mask = data.draw(hnp.arrays(np.bool_, size))
    share = data.draw(st.sampled_from([0.1, 0.25, 0.5, 1.0]))
    kept = [i for i in range(size) if mask[i]]
    count = math.floor(share * len(kept))
    found = moved(weight, mask, scores, share)
    if count == 0 or len(kept) == size:
        assert found is None
        return
    gone = sorted(kept, key=lambda i: (abs(weight[i]), -i))[:count]
    left = set(kept) - set(gone)
    come = sorted((i for i in range(size) if i not in left), key=lambda i: (-scores[i], i))[:count]
    assert found is not None
    assert set(np.flatnonzero(found.reduced.mask)) == left
    assert set(np.flatnonzero(found.grown.mask)) == left | set(come)
    assert found.grown.count == len(kept)
