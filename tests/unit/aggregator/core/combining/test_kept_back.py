"""Updates that lack tensors, by hand: who moves what, how far, and what the others are compared by."""

import math

import numpy as np
import pytest

from aggregator.core.combining import Mean, RescaledStep, UnitStep
from aggregator.core.combining.partial import Answers, Update, first_pass, merge
from aggregator.core.scoring import Cosine
from device_runtime.wire.support import Kept, Support
from tests.aggregation import aggregate, norms_of

ROLES = {"w": "weight", "head": "weight", "bn.running_var": "statistic"}
THETA = {
    "w": np.array([1.0, 1.0], dtype=np.float32),
    "head": np.array([2.0, 0.1], dtype=np.float32),
    "bn.running_var": np.array([1.0], dtype=np.float32),
}
PRIOR = {"a": 0.5, "b": 0.25}


def update(device, samples, **deltas):
    """An update of whole tensors; '_' stands for '.' in a name."""
    kept = {}
    for name, values in deltas.items():
        array = np.array(values, dtype=np.float32)
        kept[name.replace("bn_", "bn.")] = Kept.of(array, Support.everything(array.shape))
    return Update(device, kept, samples)


A = update("a", 10, w=[3, 0], head=[0, 4], bn_running_var=[1])
B = update("b", 30, w=[0, 2], bn_running_var=[5])


def run(updates, rule=None, scoring=None):
    return aggregate(THETA, PRIOR, lambda: iter(updates), ROLES, rule, scoring)


@pytest.mark.parametrize("coverage", ["coverage", "residual_mean"])
def test_a_tensor_is_averaged_over_those_that_sent_it(coverage):
    found = run([A, B], Mean(coverage=coverage))
    np.testing.assert_allclose(found.theta["w"], [1 + 0.5 * 3 / 0.75, 1 + 0.25 * 2 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(found.theta["head"], [2.0, 4.1], rtol=1e-6)  # a alone moves it, by all it says
    np.testing.assert_allclose(found.theta["bn.running_var"], [1 + (10 * 1 + 30 * 5) / 40], rtol=1e-6)


def test_scores_compare_the_tensors_that_were_sent():
    # u_a = w (3/5, 0), head (0, 4/5); u_b = w (0, 1). U = w (2/3)(3/5, 0) + (1/3)(0, 1), head (0, 4/5).
    direction_w = math.hypot(0.4, 1 / 3)
    psi_a = (0.6 * 0.4 + 0.8 * 0.8) / math.sqrt(direction_w**2 + 0.8**2)
    psi_b = (1 / 3) / direction_w  # b is not marked down for the head it does not send
    assert run([A, B]).scores == pytest.approx({"a": psi_a, "b": psi_b})
    assert norms_of(THETA, PRIOR, iter([A, B]), ROLES) == pytest.approx({"a": 5.0, "b": 2.0})


def test_without_itself_a_device_is_compared_by_what_others_sent_too():
    b = update("b", 30, w=[2, 0])
    # For a the others say (1, 0) of w and nothing of the head: cos of (3, 0 | 0, 4) with (1, 0 | 0, 0).
    assert run([A, b], scoring=Cosine(exclude_self=True)).scores == pytest.approx({"a": 3 / 5, "b": 1.0})


def test_steps_by_direction_have_the_length_of_those_that_sent_the_tensor():
    unit = run([A, B], UnitStep(unit_length=0.1)).theta
    np.testing.assert_allclose(unit["w"], [1 + 0.1 * 0.4, 1 + 0.1 / 3], rtol=1e-6)
    np.testing.assert_allclose(unit["head"], [2.0, 0.1 + 0.1 * 0.8], rtol=1e-6)
    for coverage in ("coverage", "residual_mean"):
        rescaled = run([A, B], RescaledStep(coverage=coverage)).theta
        length = (0.5 * 5 + 0.25 * 2) / 0.75
        np.testing.assert_allclose(rescaled["w"], [1 + length * 0.4, 1 + length / 3], rtol=1e-6)
        np.testing.assert_allclose(rescaled["head"], [2.0, 0.1 + 5 * 0.8], rtol=1e-6)


@pytest.mark.parametrize("coverage", ["coverage", "residual_mean"])
@pytest.mark.parametrize("rule", [Mean, UnitStep, RescaledStep])
def test_a_tensor_that_nobody_sends_keeps_its_bits(coverage, rule):
    found = run([update("a", 10, w=[3, 0]), B], rule(coverage=coverage))
    assert found.theta["head"].tobytes() == THETA["head"].tobytes()
    assert not found.covered["head"].any()
    assert found.covered["w"].all()


def test_partial_sums_remember_who_lacks_what():
    rule, answers = Mean(coverage="residual_mean"), Answers({}, lambda: iter([A, B]))
    together = rule.combine(THETA, first_pass(THETA, PRIOR, iter(answers), ROLES), answers, ROLES).theta
    apart = merge(*(first_pass(THETA, PRIOR, iter([u]), ROLES) for u in (A, B)))
    for name, value in rule.combine(THETA, apart, answers, ROLES).theta.items():
        assert value.tobytes() == together[name].tobytes()
