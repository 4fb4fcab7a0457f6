"""Whatever the masks and weights: the masked mean is a mean, scores are cosines, weights are a distribution."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.combining import Mean, RescaledStep, UnitStep
from aggregator.core.combining.partial import Answers, Update, first_pass, merge
from aggregator.core.dense_model import adopt_masks, commit_step, sparse_params, start
from aggregator.core.residuals import Keep, Trained, Zero
from aggregator.core.scoring import Cosine
from aggregator.core.weighting import Cgsv, Samples, UniformWeights
from device_runtime.wire.support import Support, cut
from tests.aggregation import aggregate, norms_of, prior_of

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ROLES = {"w": "weight", "b": "bias", "bn.running_var": "statistic"}
SHAPES = {"w": (5, 4), "b": (3,), "bn.running_var": (3,)}
seeds = st.integers(0, 10_000)
averaged = {"coverage": st.sampled_from(["coverage", "residual_mean"]), "votes_min": st.integers(1, 3)}
means = st.builds(Mean, **averaged)
rules = st.one_of(
    means, st.builds(UnitStep, unit_length=st.floats(0.01, 2.0), **averaged), st.builds(RescaledStep, **averaged)
)
by_contribution = st.builds(
    Cgsv,
    gamma0=st.floats(0.0, 1.0),
    weight_min=st.sampled_from([0.0, 1e-3, 0.5]),
    score_scale=st.sampled_from(["literal", "share"]),
)
weightings = st.one_of(by_contribution, st.just(Samples()), st.just(UniformWeights()))


def _fleet(seed, count, *, may_lack=False):
    """Updates on random masks, one of them empty now and then; with `may_lack` some lack whole tensors."""
    rng = np.random.default_rng(seed)
    theta = {n: np.abs(rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}
    updates = []
    for i in range(count):
        support = Support.from_mask(rng.random(SHAPES["w"]) < rng.random())
        scale = 0.0 if rng.random() < 0.1 else 10.0 ** rng.integers(-6, 3)
        deltas = {n: rng.normal(scale=scale, size=s).astype(np.float32) for n, s in SHAPES.items()}
        delta = cut(deltas, {"w": support})
        if may_lack:
            delta = {n: kept for n, kept in delta.items() if rng.random() < 0.6}
        updates.append(Update(f"d{i:02d}", delta, int(rng.integers(1, 100))))
    return theta, updates, prior_of(updates)


def _loops(theta, updates, prior, rule):
    """The raw step by plain loops: the dumb twin."""
    result = {}
    for name, value in theta.items():
        out = value.astype(float).copy()
        weights = prior if name in ("w", "b") else {u.device: u.sample_count for u in updates}
        for index in np.ndindex(value.shape):
            senders = [u for u in updates if name in u.delta]
            held = [u for u in senders if u.delta[name].support.dense_mask()[index]]
            total = sum(weights[u.device] for u in (held if rule.coverage == "coverage" else senders))
            if len(held) >= rule.votes_min and total > 0:
                out[index] += sum(weights[u.device] * float(u.delta[name].dense()[index]) for u in held) / total
        result[name] = np.maximum(out, 0.0) if name.endswith("running_var") else out
    return result


@settings(QUICK, max_examples=25)
@given(seeds, st.integers(1, 6), means, st.booleans())
def test_the_raw_step_is_the_plain_loop(seed, count, rule, may_lack):
    theta, updates, prior = _fleet(seed, count, may_lack=may_lack)
    got = aggregate(theta, prior, lambda: iter(updates), ROLES, rule).theta
    for name, expected in _loops(theta, updates, prior, rule).items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


@QUICK
@given(seeds, st.integers(1, 6), rules, st.booleans())
def test_scores_are_cosines_and_nothing_uncovered_moves(seed, count, rule, exclude_self):
    theta, updates, prior = _fleet(seed, count)
    result = aggregate(theta, prior, lambda: iter(updates), ROLES, rule, Cosine(exclude_self=exclude_self))
    norms = norms_of(theta, prior, iter(updates), ROLES)
    assert list(result.scores) == list(norms) == [u.device for u in updates]
    assert all(-1.0 <= psi <= 1.0 for psi in result.scores.values())
    assert np.all(result.theta["bn.running_var"] >= 0.0)
    for name, value in result.theta.items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        off = ~result.covered[name]
        assert value[off].tobytes() == theta[name][off].tobytes()
    holders = sum(u.delta["w"].support.dense_mask().astype(int) for u in updates)
    assert np.array_equal(result.covered["w"], holders >= rule.votes_min)


@QUICK
@given(seeds, st.integers(1, 6))
def test_the_raw_coverage_mean_lies_between_its_holders(seed, count):
    theta, updates, prior = _fleet(seed, count)
    moved = aggregate(theta, prior, lambda: iter(updates), ROLES).theta["w"].astype(float)
    moves = np.stack([u.delta["w"].dense() for u in updates])
    held = np.stack([u.delta["w"].support.dense_mask() for u in updates])
    low = np.where(held, moves, np.inf).min(axis=0)
    high = np.where(held, moves, -np.inf).max(axis=0)
    covered = held.any(axis=0)
    step = (moved - theta["w"])[covered]
    slack = 1e-5 * (1 + np.abs(moves).max())
    assert np.all(step >= low[covered] - slack)
    assert np.all(step <= high[covered] + slack)


@QUICK
@given(seeds, st.integers(1, 6), rules, st.floats(1e-3, 1e3))
def test_the_scale_of_the_weights_does_not_matter(seed, count, rule, factor):
    theta, updates, prior = _fleet(seed, count)
    one = aggregate(theta, prior, lambda: iter(updates), ROLES, rule)
    other = aggregate(theta, {d: r * factor for d, r in prior.items()}, lambda: iter(updates), ROLES, rule)
    for name in theta:
        np.testing.assert_allclose(one.theta[name], other.theta[name], rtol=1e-5, atol=1e-5)
    assert np.allclose(list(one.scores.values()), list(other.scores.values()), atol=1e-6)


@QUICK
@given(seeds, st.integers(2, 6), rules, st.data())
def test_partial_sums_merge_at_any_cut(seed, count, rule, data):
    theta, updates, prior = _fleet(seed, count)
    at = data.draw(st.integers(0, count))
    parts = [first_pass(theta, prior, iter(part), ROLES) for part in (updates[:at], updates[at:])]
    answers = Answers({}, lambda: iter(updates))
    merged = rule.combine(theta, merge(*parts), answers, ROLES).theta
    whole = rule.combine(theta, first_pass(theta, prior, iter(updates), ROLES), answers, ROLES).theta
    for name in theta:
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-5, atol=1e-5)


@QUICK
@given(weightings, st.integers(1, 8), st.lists(st.lists(st.floats(-1, 1), min_size=8, max_size=8), max_size=6))
def test_weights_stay_a_distribution_through_rounds_and_joins(rule, count, rounds):
    state = rule.join(rule.start(), {f"d{i}": i + 1 for i in range(count)})
    for round_index, psi in enumerate(rounds):
        present = [d for i, d in enumerate(state.weights) if (i + round_index) % 3 or len(state.weights) == 1]
        state = rule.learn(state, dict(zip(present, psi, strict=False)))
        if round_index == 2:
            state = rule.join(state, {"d0": 9, "new": 4})
        assert math.isclose(math.fsum(state.weights.values()), 1.0, rel_tol=1e-12)
        assert all(0.0 <= r <= 1.0 for r in state.weights.values())
        assert list(state.weights) == list(state.participations) == list(state.sample_counts)


@QUICK
@given(seeds, st.sampled_from([Trained(), Keep(), Zero()]), st.lists(st.booleans(), min_size=1, max_size=5))
def test_a_run_keeps_the_residual_s_promises(seed, rule, mask_changes):
    rng = np.random.default_rng(seed)
    initial = {"w": (1 + rng.random(20)).astype(np.float32), "b": np.ones(2, np.float32)}
    state = start(initial, {"w": rng.random(20) < 0.4}, rule)
    for change in mask_changes:
        support = Support.from_mask(state.masks["w"] & (rng.random(20) < 0.8))
        deltas = {"w": rng.normal(size=20).astype(np.float32), "b": np.ones(2, np.float32)}
        updates = [Update("a", cut(deltas, {"w": support}), 1)]
        result = aggregate(state.theta, {"a": 1.0}, lambda u=updates: iter(u), {"w": "weight", "b": "bias"})
        after = commit_step(state, result.theta, result.covered)
        off = ~state.masks["w"]
        assert after.theta["w"][off].tobytes() == state.theta["w"][off].tobytes()
        assert np.all(after.trained["w"] >= state.trained["w"])
        state = adopt_masks(after, {"w": rng.random(20) < 0.4}, rule, {}) if change else after
        mask, trained, theta = state.masks["w"], state.trained["w"], state.theta["w"]
        assert np.array_equal(sparse_params(state)["w"], np.where(mask, theta, 0))
        if rule == Trained():
            assert not theta[~mask & ~trained].any()
            assert np.all(theta[~mask & trained] == after.theta["w"][~mask & trained])
        elif rule == Keep():
            assert np.all(theta[~trained] == initial["w"][~trained])
        else:
            assert not theta[~mask].any()
