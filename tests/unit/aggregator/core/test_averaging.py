"""The masked mean: identities with FedAvg, the score's identities, hand-computed cases, and refusals."""

import itertools

import numpy as np
import pytest

from aggregator.core.averaging import AveragingRule, Update, aggregate, apply, directions, first_pass, merge, score
from aggregator.core.contribution import ContributionRule, initial_weights, next_weights
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Kept, Support

ROLES = {"w": "weight", "b": "bias", "bn.weight": "norm", "bn.running_var": "statistic"}
SHAPES = {"w": (4, 3), "b": (4,), "bn.weight": (4,), "bn.running_var": (4,)}


def _theta(seed=0):
    rng = np.random.default_rng(seed)
    return {n: np.abs(rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def _update(device, deltas, masks=None, samples=10):
    masks = masks or {}
    kept = {}
    for name, delta in deltas.items():
        support = Support.from_mask(masks[name]) if name in masks else Support.everything(delta.shape)
        kept[name] = Kept.of(delta.astype(np.float32), support)
    return Update(device, kept, samples)


def _fleet(count, seed=1, masks=None, scale=0.1):
    rng = np.random.default_rng(seed)
    updates = []
    for i in range(count):
        deltas = {n: rng.normal(scale=scale, size=s) for n, s in SHAPES.items()}
        updates.append(_update(f"d{i}", deltas, masks[i] if masks else None, samples=10 * (i + 1)))
    return updates


def _prior(updates):
    return initial_weights({u.device: u.sample_count for u in updates}).weights


def _run(updates, rule=None, prior=None, theta=None, **options):
    theta = _theta() if theta is None else theta
    prior = _prior(updates) if prior is None else prior
    return aggregate(theta, prior, lambda: iter(updates), rule or AveragingRule(), ROLES, **options)


def _random_masks(count, seed=3):
    rng = np.random.default_rng(seed)
    return [{"w": rng.random((4, 3)) < 0.6} for _ in range(count)]


def _fedavg(theta, updates):
    """The dumb twin: plain loops over coordinates and clients."""
    total = sum(u.sample_count for u in updates)
    result = {}
    for name, value in theta.items():
        out = np.zeros(value.size)
        for i in range(value.size):
            local = [float(value.ravel()[i]) + float(u.delta[name].dense().ravel()[i]) for u in updates]
            out[i] = sum(u.sample_count / total * x for u, x in zip(updates, local, strict=True))
        result[name] = out.reshape(value.shape)
    return result


def test_full_masks_and_sample_weights_are_fedavg():
    updates = _fleet(5, scale=0.01)
    got = _run(updates).theta
    for name, expected in _fedavg(_theta(), updates).items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], expected, atol=1e-6, rtol=0)


def test_gamma0_of_one_is_fedavg_bit_for_bit_over_rounds():
    def play(rule):
        theta, state = _theta(), initial_weights({f"d{i}": 10 * (i + 1) for i in range(4)})
        for round_index in range(4):
            updates = _fleet(4, seed=round_index)
            result = _run(updates, prior=state.weights, theta=theta)
            theta, state = result.theta, next_weights(rule, state, result.scores)
        return theta

    fedavg, cgsv = play(ContributionRule(weighting="samples")), play(ContributionRule(gamma0=1.0))
    for name in fedavg:
        assert fedavg[name].tobytes() == cgsv[name].tobytes()


@pytest.mark.parametrize("step", ["raw", "unit", "rescaled"])
def test_equal_masks_make_both_coverages_equal(step):
    mask = _random_masks(1)[0]
    updates = _fleet(4, masks=[mask] * 4)
    one = _run(updates, AveragingRule("coverage", step))
    other = _run(updates, AveragingRule("residual_mean", step))
    for name in SHAPES:
        assert one.theta[name].tobytes() == other.theta[name].tobytes()
    assert one.scores == other.scores


def test_identical_devices_score_one_and_share_equally():
    delta = {n: np.random.default_rng(2).normal(size=s) for n, s in SHAPES.items()}
    updates = [_update(f"d{i}", delta) for i in range(4)]
    state = initial_weights({u.device: 10 for u in updates})
    for _ in range(5):
        result = _run(updates, prior=state.weights)
        assert list(result.scores.values()) == pytest.approx([1.0] * 4)
        state = next_weights(ContributionRule(), state, result.scores)
    assert list(state.weights.values()) == pytest.approx([0.25] * 4)


def test_a_device_that_sends_the_opposite_ends_at_the_floor():
    rule = ContributionRule()
    good = {n: np.random.default_rng(2).normal(size=s) for n, s in SHAPES.items()}
    updates = [_update(f"d{i}", good) for i in range(3)] + [_update("evil", {n: -d for n, d in good.items()})]
    state = initial_weights({u.device: 10 for u in updates})
    for _ in range(20):
        result = _run(updates, prior=state.weights)
        state = next_weights(rule, state, result.scores)
    assert result.scores["evil"] == pytest.approx(-1.0)
    assert state.weights["evil"] < 2 * rule.weight_min


def test_identical_masks_make_the_masked_cosine_the_plain_one():
    mask = _random_masks(1)[0]
    updates = _fleet(4, masks=[mask] * 4)
    result = _run(updates)
    flat = [np.concatenate([u.delta["w"].dense().ravel(), u.delta["b"].dense()]).astype(float) for u in updates]
    units = [f / np.linalg.norm(f) for f in flat]
    u = sum(r * v for r, v in zip(_prior(updates).values(), units, strict=True))
    for update, unit in zip(updates, units, strict=True):
        assert result.scores[update.device] == pytest.approx(unit @ u / np.linalg.norm(u), abs=1e-9)


def test_only_weights_and_biases_are_scored():
    updates = _fleet(3)
    noisy = [
        Update(u.device, {**u.delta, "bn.weight": Kept.of(np.full(4, 9.0, np.float32), Support.everything((4,)))}, 10)
        for u in updates
    ]
    assert _run(updates).scores == _run(noisy, prior=_prior(updates)).scores
    assert _run(updates).norms == _run(noisy, prior=_prior(updates)).norms


def test_weights_follow_r_and_statistics_follow_samples():
    ones = {n: np.ones(s) for n, s in SHAPES.items()}
    zeros = {n: np.zeros(s) for n, s in SHAPES.items()}
    updates = [_update("a", ones, samples=10), _update("b", zeros, samples=30)]
    theta = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    moved = _run(updates, prior={"a": 0.9, "b": 0.1}, theta=theta).theta
    assert moved["w"] == pytest.approx(np.full((4, 3), 0.9))
    assert moved["b"] == pytest.approx(np.full(4, 0.9))
    assert moved["bn.weight"] == pytest.approx(np.full(4, 0.25))
    assert moved["bn.running_var"] == pytest.approx(np.full(4, 0.25))


def test_each_coordinate_is_averaged_over_its_holders():
    theta = {"w": np.zeros(3, np.float32)}
    a = _update("a", {"w": np.array([1.0, 1.0, 0.0])}, {"w": np.array([True, True, False])})
    b = _update("b", {"w": np.array([4.0, 0.0, 0.0])}, {"w": np.array([True, False, False])})
    prior = {"a": 0.25, "b": 0.75}

    def step(rule):
        return aggregate(theta, prior, lambda: iter([a, b]), rule, {"w": "weight"})

    assert step(AveragingRule()).theta["w"].tolist() == [3.25, 1.0, 0.0]
    assert step(AveragingRule("residual_mean")).theta["w"].tolist() == [3.25, 0.25, 0.0]
    voted = step(AveragingRule(votes_min=2))
    assert voted.theta["w"].tolist() == [3.25, 0.0, 0.0]
    assert voted.covered["w"].tolist() == [True, False, False]


def test_unit_and_rescaled_steps_by_hand():
    theta = {"w": np.zeros(2, np.float32)}
    a, b = _update("a", {"w": np.array([3.0, 4.0])}), _update("b", {"w": np.array([0.0, 2.0])})

    def step(rule):
        return aggregate(theta, {"a": 0.5, "b": 0.5}, lambda: iter([a, b]), rule, {"w": "weight"}).theta["w"]

    u = np.array([0.3, 0.9])
    assert step(AveragingRule(step="unit", unit_length=0.5)) == pytest.approx(0.5 * u)
    assert step(AveragingRule(step="rescaled")) == pytest.approx(3.5 * u)


def test_a_coordinate_nobody_held_keeps_its_bits():
    masks = [{"w": np.eye(4, 3, dtype=bool)} for _ in range(3)]
    theta = _theta()
    theta["w"][0, 1] = np.float32(-0.0)
    theta["w"][0, 2] = np.float32(1e-42)  # subnormal
    result = _run(_fleet(3, masks=masks), theta=theta)
    off = ~np.eye(4, 3, dtype=bool)
    assert result.theta["w"][off].tobytes() == theta["w"][off].tobytes()
    assert np.array_equal(result.covered["w"], ~off)


def test_an_empty_update_scores_zero_and_counts_in_the_raw_mean_only():
    full = _update("a", {"w": np.ones(2)})
    empty = _update("b", {"w": np.zeros(2)})
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    result = aggregate(theta, {"a": 0.5, "b": 0.5}, lambda: iter([full, empty]), AveragingRule(), roles)
    assert result.scores == {"a": pytest.approx(1.0), "b": 0.0}
    assert result.norms["b"] == 0.0
    assert result.theta["w"].tolist() == [0.5, 0.5]


def test_device_order_gives_the_same_bits_and_any_order_the_same_value():
    updates = _fleet(4, masks=_random_masks(4))
    expected = _run(updates)
    for order in itertools.permutations(updates):
        arrived = _run(list(order), prior=_prior(updates))
        in_order = _run(sorted(order, key=lambda u: u.device), prior=_prior(updates))
        for name in SHAPES:
            assert in_order.theta[name].tobytes() == expected.theta[name].tobytes()
            np.testing.assert_allclose(arrived.theta[name], expected.theta[name], atol=1e-6)
        assert in_order.scores == expected.scores


def test_a_support_by_axes_is_the_same_as_its_mask():
    rng = np.random.default_rng(5)
    shape, picks = (6, 5), (np.array([0, 2, 5]), np.array([1, 4]))
    axes = Support.from_axes(shape, picks)
    mask = Support.from_mask(axes.dense_mask())
    theta, roles = {"w": rng.normal(size=shape).astype(np.float32)}, {"w": "weight"}
    values = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]

    def play(support):
        fleet = [Update("a", {"w": Kept.of(values[0], support)}, 1), Update("b", {"w": Kept.of(values[1], support)}, 1)]
        return aggregate(theta, {"a": 0.4, "b": 0.6}, lambda: iter(fleet), AveragingRule(), roles)

    assert play(axes).theta["w"].tobytes() == play(mask).theta["w"].tobytes()
    assert play(axes).scores == play(mask).scores


def test_merging_partial_sums_is_associative_and_equals_one_sum():
    theta, updates = _theta(), _fleet(6, masks=_random_masks(6))
    prior = _prior(updates)
    a, b, c = (first_pass(theta, prior, iter(updates[i : i + 2]), ROLES) for i in (0, 2, 4))
    whole = first_pass(theta, prior, iter(updates), ROLES)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert left.members == right.members == whole.members
    for rule in (AveragingRule(), AveragingRule("residual_mean", "rescaled", votes_min=2)):
        expected = apply(theta, whole, rule, ROLES)[0]
        for partial in (left, right):
            for name, value in apply(theta, partial, rule, ROLES)[0].items():
                np.testing.assert_allclose(value, expected[name], atol=1e-6)
    one_pass = _run(updates).scores
    assert {u.device: score(u, directions(left)) for u in updates} == pytest.approx(one_pass, abs=1e-9)


def test_excluding_self_scores_against_the_others():
    updates = _fleet(4, masks=_random_masks(4))
    got = _run(updates, exclude_self=True).scores
    for update in updates:
        others = [u for u in updates if u is not update]
        direction = directions(first_pass(_theta(), _prior(updates), iter(others), ROLES))
        assert got[update.device] == pytest.approx(score(update, direction), abs=1e-9)
    assert _run(updates[:1], prior={"d0": 1.0}, exclude_self=True).scores == {"d0": 0.0}


def test_participants_without_any_weight_count_by_samples():
    updates = _fleet(3)
    weightless = _run(updates, prior=dict.fromkeys(("d0", "d1", "d2"), 0.0))
    by_samples = _run(updates)
    for name in SHAPES:
        np.testing.assert_allclose(weightless.theta[name], by_samples.theta[name], atol=1e-6)


def test_a_running_variance_never_becomes_negative():
    theta = {"bn.running_var": np.full(4, 0.01, np.float32), "bn.running_mean": np.full(4, 0.01, np.float32)}
    roles = dict.fromkeys(theta, "statistic")
    updates = [_update("a", {n: np.full(4, -0.02) for n in theta})]
    moved = aggregate(theta, {"a": 1.0}, lambda: iter(updates), AveragingRule(), roles).theta
    assert moved["bn.running_var"].tolist() == [0.0] * 4
    assert moved["bn.running_mean"] == pytest.approx(np.full(4, -0.01))


def test_updates_are_read_one_at_a_time_twice():
    alive, most, passes = 0, 0, 0

    class Counted(dict):
        def __init__(self, source):
            nonlocal alive, most
            super().__init__(source)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    fleet = _fleet(6)

    def updates():
        nonlocal passes
        passes += 1
        for u in fleet:
            yield Update(u.device, Counted(u.delta), u.sample_count)

    aggregate(_theta(), _prior(fleet), updates, AveragingRule(), ROLES)
    assert passes == 2
    # The loop variable still holds the last update while the iterator makes the next one.
    assert most <= 2


def test_arguments_are_not_changed():
    theta, updates = _theta(), _fleet(3, masks=_random_masks(3))
    before = {n: v.copy() for n, v in theta.items()}
    sent = [{n: k.values.copy() for n, k in u.delta.items()} for u in updates]
    _run(updates, theta=theta)
    for name in theta:
        assert theta[name].tobytes() == before[name].tobytes()
    for update, values in zip(updates, sent, strict=True):
        for name, kept in update.delta.items():
            assert kept.values.tobytes() == values[name].tobytes()


def test_what_cannot_be_summed_is_refused():
    good = _fleet(2)
    nan = {n: np.zeros(s) for n, s in SHAPES.items()} | {"b": np.array([0.0, np.nan, 0.0, 0.0])}
    with pytest.raises(UsageError, match="not finite in 'b'"):
        _run([*good, _update("d2", nan)])
    with pytest.raises(UsageError, match="without updates"):
        _run([], prior={"a": 1.0})
    with pytest.raises(UsageError, match="two updates"):
        _run([good[0], good[0]], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="has the weight None"):
        _run(good, prior={"d0": 1.0})
    for bad in (float("nan"), float("inf"), -0.1):
        with pytest.raises(UsageError, match="has the weight"):
            _run(good, prior={"d0": bad, "d1": 1.0})
    with pytest.raises(UsageError, match="does not fit the model"):
        _run([_update("d0", {"x": np.zeros(3)})], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="does not fit the model"):
        _run([_update("d0", {"w": np.zeros(3)})], prior={"d0": 1.0})
    with pytest.raises(UsageError, match="no role"):
        aggregate(_theta(), _prior(good), lambda: iter(good), AveragingRule(), {"w": "weight"})
    huge, theta = {"w": np.full((4, 3), 3.4e38)}, _theta() | {"w": np.full((4, 3), 3e38, np.float32)}
    with pytest.raises(UsageError, match="beyond float32"):
        _run([_update("d0", huge)], prior={"d0": 1.0}, theta=theta)


def test_a_second_pass_over_other_updates_is_refused():
    fleet = _fleet(3)
    answers = iter([fleet, fleet[:2]])
    with pytest.raises(UsageError, match="second pass"):
        aggregate(_theta(), _prior(fleet), lambda: iter(next(answers)), AveragingRule(), ROLES)
    partial = first_pass(_theta(), _prior(fleet), iter(fleet), ROLES)
    with pytest.raises(UsageError, match="both partial sums"):
        merge(partial, partial)


@pytest.mark.parametrize("wrong", [{"coverage": "all"}, {"step": "big"}, {"unit_length": 0.0}, {"votes_min": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AveragingRule(**wrong)


def test_an_update_too_short_to_have_a_direction_stays_out_of_u():
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    updates = [_update("a", {"w": np.array([1.0, 0.0])}), _update("b", {"w": np.array([0.0, 1e-14])})]
    result = aggregate(theta, {"a": 0.5, "b": 0.5}, lambda: iter(updates), AveragingRule(), roles)
    assert result.scores == {"a": pytest.approx(1.0), "b": 0.0}


def test_rounding_left_of_negligible_others_is_no_direction():
    theta, roles = {"w": np.zeros(2, np.float32)}, {"w": "weight"}
    updates = [_update("a", {"w": np.array([1.0, 0.7])}), _update("b", {"w": np.array([0.3, -1.0])})]
    prior = {"a": 1.0, "b": 1.5e-16}
    result = aggregate(theta, prior, lambda: iter(updates), AveragingRule(), roles, exclude_self=True)
    assert result.scores["a"] == 0.0
