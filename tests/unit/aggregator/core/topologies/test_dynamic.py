"""The schedule of the moving mask, by hand, and what prune-and-regrow does to a small layer."""

import numpy as np
import pytest

from aggregator.core.layers.counts import keep_counts
from aggregator.core.masks import score_masks
from aggregator.core.pruning import Pruning
from aggregator.core.topologies import TOPOLOGIES, Dynamic, Turn
from device_runtime.wire.draws import Draws

RULE = Dynamic(end_round=150, prune_share=0.4, every_rounds=10)
SHAPES = {"conv": (8, 3, 3, 3), "fc": (20, 50)}
SPARSITY = 0.8
PRUNING = Pruning(sparsity=SPARSITY)


def _theta(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def _draws(round_index):
    return lambda name: Draws(1, "grow", round_index, name)


def _masks(theta, sparsity=SPARSITY):
    return PRUNING.masks(theta, SHAPES, sparsity)


def _turn(round_index, theta, masks, pruning=PRUNING, draws_for=None, initial=None):
    return Turn(round_index, pruning, theta, masks, masks, initial or {}, draws_for or _draws(round_index))


def _next(rule, round_index, theta=None, masks=None):
    theta = _theta() if theta is None else theta
    return rule.next_masks(_turn(round_index, theta, _masks(theta) if masks is None else masks))


def test_the_share_decays_as_a_cosine_and_ends():
    assert Dynamic().for_rounds(200).end_round == 150
    assert Dynamic().for_rounds(1).end_round == 0
    assert Dynamic(end_round=7).for_rounds(200).end_round == 7, "what is written stands"
    assert RULE.prune_share_at(75) == pytest.approx(0.2)
    assert RULE.prune_share_at(50) == pytest.approx(0.3)
    assert RULE.prune_share_at(1) == pytest.approx(0.4, abs=1e-3)
    assert RULE.prune_share_at(149) > 0.0
    assert RULE.prune_share_at(150) == RULE.prune_share_at(151) == 0.0


def test_rounds_that_adjust():
    assert [t for t in range(1, 201) if RULE.adjusts(t)] == list(range(10, 150, 10))
    assert not any(Dynamic(end_round=150, prune_share=0.0).adjusts(t) for t in range(1, 201))
    assert not any(Dynamic(end_round=0).adjusts(t) for t in range(1, 5))


def test_an_adjusting_round_exchanges_weights_and_keeps_the_counts():
    old, new = _masks(_theta()), _next(RULE, 10)
    enlarged = SPARSITY + (1 - SPARSITY) * RULE.prune_share_at(10)
    low = keep_counts(SHAPES, enlarged, PRUNING.layers)
    for name, count in keep_counts(SHAPES, SPARSITY, PRUNING.layers).items():
        assert np.count_nonzero(new[name]) == count
        # The largest `low` active weights are still there.
        assert np.all(new[name][score_masks(PRUNING.criterion.scores(_theta(), low), low)[name]])
        assert np.any(new[name] != old[name])


def test_small_active_weights_go_and_large_inactive_ones_do_not_count():
    theta = {"fc": np.array([[9.0, 0.1, 0.2, 0.3, 0.4, 0.5, 8.0, 8.0, 8.0, 8.0]], np.float32)}
    masks = {"fc": np.array([[True] * 5 + [False] * 5])}
    rule = Dynamic(end_round=1000, prune_share=0.4, every_rounds=1)
    for round_index in range(1, 20):  # keep 5, low 3
        new = rule.next_masks(_turn(round_index, theta, masks, Pruning(sparsity=0.5)))["fc"]
        assert new.sum() == 5
        assert new[0, [0, 3, 4]].all()


def test_growth_is_uniform_over_all_other_coordinates():
    theta = {"fc": np.arange(1, 11, dtype=np.float32)[None]}
    masks = {"fc": np.arange(10)[None] >= 5}
    rule = Dynamic(end_round=10**6, prune_share=0.4, every_rounds=1)
    hits = np.zeros(10)
    for round_index in range(1, 1401):
        hits += rule.next_masks(_turn(round_index, theta, masks, Pruning(sparsity=0.5)))["fc"][0]
    assert hits[7:].tolist() == [1400] * 3
    # Two of seven candidates per round, the just-pruned ones (5, 6) among them: 400 each, sd about 17.
    assert np.all(np.abs(hits[:7] - 400) < 70)


def test_the_same_draws_give_the_same_mask_and_others_do_not():
    one, again = _next(RULE, 10), _next(RULE, 10)
    other = RULE.next_masks(_turn(10, _theta(), _masks(_theta()), draws_for=lambda name: Draws(2, "grow", 10, name)))
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert any(not np.array_equal(one[n], other[n]) for n in one)


def test_between_adjustments_the_mask_stays_or_is_pruned_anew():
    theta, old = _theta(), _masks(_theta(9))
    kept = _next(RULE, 11, theta, old)
    assert all(kept[n] is old[n] for n in old)
    rule = Dynamic(end_round=150, prune_share=0.4, between="reprune")
    anew = _next(rule, 11, theta, old)
    assert all(np.array_equal(anew[n], _masks(theta)[n]) for n in old)


def test_an_adjusting_round_brings_foreign_counts_back_to_the_rule():
    sparse = {n: np.zeros(s, dtype=bool) for n, s in SHAPES.items()}
    dense = {n: np.ones(s, dtype=bool) for n, s in SHAPES.items()}
    for masks in (sparse, dense):
        counts = {n: int(m.sum()) for n, m in _next(RULE, 10, masks=masks).items()}
        assert counts == keep_counts(SHAPES, SPARSITY, PRUNING.layers)


@pytest.mark.parametrize(("grow_value", "expected"), [("residual", 2.0), ("zero", 0.0), ("init", 7.0)])
def test_grown_coordinates_start_from_the_rule_s_value(grow_value, expected):
    rule = Dynamic(end_round=150, every_rounds=10, grow_value=grow_value)
    theta, initial = {"w": np.array([1, 2, 3], np.float32)}, {"w": np.full(3, 7, np.float32)}
    old, new = {"w": np.array([True, False, False])}, {"w": np.array([True, True, False])}

    def values(round_index):
        return theta | rule.grown_values(_turn(round_index, theta, old, initial=initial), new)

    assert values(10)["w"].tolist() == [1, expected, 3]
    # What re-pruning brings back was chosen for its value.
    assert values(11)["w"].tolist() == [1, 2, 3]
    assert theta["w"].tolist() == [1, 2, 3]


def test_arguments_are_not_changed():
    theta, masks = _theta(), _masks(_theta())
    before = {n: (theta[n].tobytes(), masks[n].tobytes()) for n in theta}
    _next(RULE, 10, theta, masks)
    assert before == {n: (theta[n].tobytes(), masks[n].tobytes()) for n in theta}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prune_share": 1.0},
        {"prune_share": -0.1},
        {"every_rounds": 0},
        {"end_round": -1},
        {"kind": "wild"},
        {"grow_value": "one"},
        {"between": "x"},
        {"growth": "x"},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TOPOLOGIES.read({"kind": "dynamic"} | wrong)
