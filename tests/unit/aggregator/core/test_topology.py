"""The schedule of the moving mask, by hand, and what prune-and-regrow does to a small layer."""

import numpy as np
import pytest

from aggregator.core.pruning import keep_counts, magnitude_masks
from aggregator.core.topology import TopologyRule, adjusts, end_round_of, grown_values, next_masks, prune_share_at
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError

RULE = TopologyRule(end_round=150, prune_share=0.4, every_rounds=10)
SHAPES = {"conv": (8, 3, 3, 3), "fc": (20, 50)}
SPARSITY = 0.8


def _theta(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def _draws(round_index):
    return lambda name: Draws(1, "grow", round_index, name)


def _masks(theta):
    return magnitude_masks(theta, keep_counts(SHAPES, SPARSITY))


def _next(rule, round_index, theta=None, masks=None):
    theta = _theta() if theta is None else theta
    return next_masks(
        rule, theta, _masks(theta) if masks is None else masks, SPARSITY, round_index, _draws(round_index)
    )


def test_the_share_decays_as_a_cosine_and_ends():
    assert end_round_of(200) == 150
    assert end_round_of(1) == 0
    assert prune_share_at(RULE, 75) == pytest.approx(0.2)
    assert prune_share_at(RULE, 50) == pytest.approx(0.3)
    assert prune_share_at(RULE, 1) == pytest.approx(0.4, abs=1e-3)
    assert prune_share_at(RULE, 149) > 0.0
    assert prune_share_at(RULE, 150) == prune_share_at(RULE, 151) == 0.0


def test_rounds_that_adjust():
    assert [t for t in range(1, 201) if adjusts(RULE, t)] == list(range(10, 150, 10))
    assert not any(adjusts(TopologyRule(end_round=150, prune_share=0.0), t) for t in range(1, 201))
    assert not any(adjusts(TopologyRule(end_round=150, kind="static"), t) for t in range(1, 201))
    assert not any(adjusts(TopologyRule(end_round=0), t) for t in range(1, 5))


def test_an_adjusting_round_exchanges_weights_and_keeps_the_counts():
    old, new = _masks(_theta()), _next(RULE, 10)
    enlarged = SPARSITY + (1 - SPARSITY) * prune_share_at(RULE, 10)
    low = keep_counts(SHAPES, enlarged)
    for name, count in keep_counts(SHAPES, SPARSITY).items():
        assert np.count_nonzero(new[name]) == count
        # The largest `low` active weights are still there.
        assert np.all(new[name][magnitude_masks(_theta(), low)[name]])
        assert np.any(new[name] != old[name])


def test_small_active_weights_go_and_large_inactive_ones_do_not_count():
    theta = {"fc": np.array([[9.0, 0.1, 0.2, 0.3, 0.4, 0.5, 8.0, 8.0, 8.0, 8.0]], np.float32)}
    masks = {"fc": np.array([[True] * 5 + [False] * 5])}
    rule = TopologyRule(end_round=1000, prune_share=0.4, every_rounds=1)
    for round_index in range(1, 20):  # keep 5, low 3
        new = next_masks(rule, theta, masks, 0.5, round_index, _draws(round_index))["fc"]
        assert new.sum() == 5
        assert new[0, [0, 3, 4]].all()


def test_growth_is_uniform_over_all_other_coordinates():
    theta = {"fc": np.arange(1, 11, dtype=np.float32)[None]}
    masks = {"fc": np.arange(10)[None] >= 5}
    rule = TopologyRule(end_round=10**6, prune_share=0.4, every_rounds=1)
    hits = np.zeros(10)
    for round_index in range(1, 1401):
        hits += next_masks(rule, theta, masks, 0.5, round_index, _draws(round_index))["fc"][0]
    assert hits[7:].tolist() == [1400] * 3
    # Two of seven candidates per round, the just-pruned ones (5, 6) among them: 400 each, sd about 17.
    assert np.all(np.abs(hits[:7] - 400) < 70)


def test_the_same_draws_give_the_same_mask_and_others_do_not():
    one, again = _next(RULE, 10), _next(RULE, 10)
    other = next_masks(RULE, _theta(), _masks(_theta()), SPARSITY, 10, lambda name: Draws(2, "grow", 10, name))
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert any(not np.array_equal(one[n], other[n]) for n in one)


def test_between_adjustments_the_mask_stays_or_is_pruned_anew():
    theta, old = _theta(), _masks(_theta(9))
    kept = _next(RULE, 11, theta, old)
    assert all(kept[n] is old[n] for n in old)
    rule = TopologyRule(end_round=150, prune_share=0.4, between="reprune")
    anew = _next(rule, 11, theta, old)
    assert all(np.array_equal(anew[n], _masks(theta)[n]) for n in old)
    static = TopologyRule(end_round=150, kind="static", between="reprune")
    assert all(_next(static, t, theta, old)[n] is old[n] for n in old for t in (10, 11))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_dense_rounds_keep_everything_and_end_in_the_largest_trained_weights(kind):
    rule = TopologyRule(end_round=150, prune_share=0.4, every_rounds=5, kind=kind, dense_rounds=20)
    dense = {n: np.ones(s, dtype=bool) for n, s in SHAPES.items()}
    assert all(_next(rule, t, masks=dense)[n] is dense[n] for n in dense for t in (1, 5, 19))
    chosen = _next(rule, 20, masks=dense)
    assert all(np.array_equal(chosen[n], _masks(_theta())[n]) for n in dense)
    assert [t for t in range(1, 200) if adjusts(rule, t)] == (list(range(25, 150, 5)) if kind == "dynamic" else [])


def test_an_adjusting_round_brings_foreign_counts_back_to_the_rule():
    sparse = {n: np.zeros(s, dtype=bool) for n, s in SHAPES.items()}
    dense = {n: np.ones(s, dtype=bool) for n, s in SHAPES.items()}
    for masks in (sparse, dense):
        counts = {n: int(m.sum()) for n, m in _next(RULE, 10, masks=masks).items()}
        assert counts == keep_counts(SHAPES, SPARSITY)


@pytest.mark.parametrize(("grow_value", "expected"), [("residual", 2.0), ("zero", 0.0), ("init", 7.0)])
def test_grown_coordinates_start_from_the_rule_s_value(grow_value, expected):
    rule = TopologyRule(end_round=150, grow_value=grow_value)
    theta, initial = {"w": np.array([1, 2, 3], np.float32)}, {"w": np.full(3, 7, np.float32)}
    old, new = {"w": np.array([True, False, False])}, {"w": np.array([True, True, False])}
    assert grown_values(rule, 10, theta, old, new, initial)["w"].tolist() == [1, expected, 3]
    # What re-pruning brings back was chosen for its value.
    assert grown_values(rule, 11, theta, old, new, initial)["w"].tolist() == [1, 2, 3]
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
        {"dense_rounds": -1},
        {"kind": "wild"},
        {"grow_value": "one"},
        {"between": "x"},
        {"layer_rule": "x"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TopologyRule(**({"end_round": 10} | wrong))
