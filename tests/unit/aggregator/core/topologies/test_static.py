"""A static mask."""

import numpy as np

from aggregator.core.pruning import Pruning
from aggregator.core.topologies import Static, Turn
from device_runtime.wire.draws import Draws


def test_the_mask_never_moves_and_nothing_grows():
    rule = Static().for_rounds(20)
    theta, masks = {"w": np.array([1, 2, 3], np.float32)}, {"w": np.array([True, False, False])}
    for round_index in range(1, 21):
        turn = Turn(round_index, Pruning(sparsity=0.6), theta, masks, masks, theta, lambda name: Draws(1, "grow", name))
        assert rule.next_masks(turn)["w"] is masks["w"]
        assert rule.grown_values(turn, masks) == {}
        assert rule.adjustment(round_index, Pruning()) is None
