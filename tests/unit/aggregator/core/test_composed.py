"""A composed method through whole rounds, by hand: who gets what, what comes of it, and what is remembered."""

import math

import numpy as np
import pytest

from aggregator.core.combining.partial import Answers, Update
from aggregator.core.composed import Parts, compose
from aggregator.core.layers import UniformLayers
from aggregator.core.method import Facts, Present, RunState
from aggregator.core.pruning import Pruning
from aggregator.core.rating import ByContribution, Capability
from aggregator.core.rating.round_cost import Known, Point
from aggregator.core.residuals import Keep
from aggregator.core.topologies import Dynamic, Static
from aggregator.core.weighting import Cgsv
from aggregator.state import decode_state, encode_state
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Kept, Support

INITIAL = {"w": np.array([8, 7, 6, 5, 4, 3, 2, 1], np.float32), "b": np.zeros(1, np.float32)}
FACTS = Facts({"w": (8,), "b": (1,)}, {"w": "weight", "b": "bias"}, frozenset({"w"}), INITIAL)
PARTS = Parts(
    pruning=Pruning(sparsity=0.5, layers=UniformLayers()),
    topology=Static(),
    weighting=Cgsv(gamma0=0.5),
    rates=ByContribution(kappa=0.25, sparsity_max=0.9),
)
MEMBERS = {"x": Present(30), "y": Present(10)}
HALF = [True] * 4 + [False] * 4


def method_of(parts=PARTS):
    return compose(parts, FACTS, round_count=20, seed=3)


def answers(works, samples=(30, 10), **values):
    """Updates of devices on the supports of their work, each the values of w and then those of b."""
    counts = dict(zip(sorted(values), samples, strict=False))

    def update(device):
        supports, flat = works[device].supports, np.array(values[device], np.float32)
        at = supports["w"].count
        delta = {"w": Kept(flat[:at], supports["w"]), "b": Kept(flat[at:], supports["b"])}
        return Update(device, delta, counts[device])

    return Answers(counts, lambda: (update(device) for device in counts))


def first_round(method):
    """What the first round leaves, of two devices that pull at right angles."""
    state = method.init()
    works = method.assign(state, 1, MEMBERS)
    return method.close(state, 1, answers(works, x=[1, 0, 0, 0, 0], y=[0, 0, 2, 0, 0]))


def test_before_round_1_the_largest_initial_weights_are_kept_and_nothing_is_trained():
    state = method_of().init()
    assert state.model.theta["w"].tolist() == [8, 7, 6, 5, 0, 0, 0, 0]
    assert state.model.masks["w"].tolist() == HALF
    assert not state.model.trained["w"].any()


def test_the_first_round_by_hand():
    method = method_of()
    works = method.assign(method.init(), 1, MEMBERS)
    assert works["x"] is works["y"], "nobody has a weight yet, and one submodel is cut once"
    assert works["x"].supports["w"].dense_mask().tolist() == HALF
    assert works["x"].supports["b"].dense_mask().tolist() == [True]
    assert works["x"].adjust is None
    closed = first_round(method)
    # r = 3/4 and 1/4; U = (3/4, 0, 1/4, 0), of length sqrt(10)/4. r follows ψ, which is 3 to 1 as well.
    assert closed.averaged.theta["w"].tolist() == [8.75, 7, 6.5, 5, 0, 0, 0, 0]
    assert closed.scores == pytest.approx({"x": 3 / math.sqrt(10), "y": 1 / math.sqrt(10)})
    assert closed.weights == pytest.approx({"x": 0.75, "y": 0.25})
    assert closed.averaged.trained["w"].tolist() == HALF


def test_the_second_round_by_hand_with_one_device_pruned_further():
    method = method_of()
    state = first_round(method).state
    works = method.assign(state, 2, MEMBERS | {"new": Present(5)})
    # The mean of r is 1/2: x lies above it, y as far below as any: 0.5 + 0.25. A newcomer has the run's.
    assert works["x"] is works["new"]
    assert works["x"].supports["w"].dense_mask().tolist() == HALF
    assert works["y"].supports["w"].dense_mask().tolist() == [True, True] + [False] * 6
    closed = method.close(state, 2, answers(works, x=[1, 1, 1, 1, 2], y=[3, 1, 0]))
    # Both hold w0, w1 and b; x alone holds w2 and w3 and moves them by all it says.
    assert closed.averaged.theta["w"] == pytest.approx([8.75 + 1.5, 8, 7.5, 6, 0, 0, 0, 0])
    assert closed.averaged.theta["b"] == pytest.approx([1.5])
    x, y = 1 / math.sqrt(8), 1 / math.sqrt(10)
    direction = np.array([0.75 * x + 0.25 * 3 * y, 0.75 * x + 0.25 * y, x, x, 0.75 * 2 * x])
    psi_x = x * direction @ [1, 1, 1, 1, 2] / np.linalg.norm(direction)
    psi_y = y * direction[[0, 1, 4]] @ [3, 1, 0] / np.linalg.norm(direction[[0, 1, 4]])
    assert closed.scores == pytest.approx({"x": psi_x, "y": psi_y})
    # γ of a second round is 1 - (1 - 0.5) / 2.
    raw = {"x": 0.75 * 0.75 + 0.25 * psi_x, "y": 0.75 * 0.25 + 0.25 * psi_y}
    assert closed.weights == pytest.approx({device: r / sum(raw.values()) for device, r in raw.items()})


def test_memory_comes_back_from_disk_and_the_next_round_has_the_same_bits():
    method = method_of()
    state = first_round(method).state
    back = decode_state(encode_state(state))
    assert back.memory.record == state.memory.record
    assert not back.memory.tensors
    ends = []
    for begin in (state, back):
        works = method.assign(begin, 2, MEMBERS)
        closed = method.close(begin, 2, answers(works, x=[1, 1, 1, 1, 2], y=[3, 1, 0]))
        ends.append((closed.scores, closed.weights, encode_state(closed.state)))
    assert ends[0] == ends[1]


def test_a_device_that_was_away_keeps_its_weight_and_a_newcomer_gets_the_median():
    method = method_of()
    state = first_round(method).state
    works = method.assign(state, 2, {"new": Present(5), "x": Present(30)})
    closed = method.close(state, 2, answers(works, (5, 30), new=[1, 0, 0, 0, 0], x=[1, 0, 0, 0, 0]))
    assert closed.scores == pytest.approx({"new": 1.0, "x": 1.0})
    assert list(closed.weights) == ["new", "x"], "r of those that took part"
    # r of new 1/2, of x 3/4 and of y 1/4, over 3/2; γ of a first round is 1/2, of a second 3/4; y is away.
    raw = {"new": 0.5 * 1 / 3 + 0.5, "x": 0.75 * 0.5 + 0.25, "y": 1 / 6}
    expected = {device: r / sum(raw.values()) for device, r in raw.items()}
    assert closed.state.memory.record["weighting"]["weights"] == pytest.approx(expected)


def test_arguments_are_not_changed():
    method = method_of()
    state = first_round(method).state
    before = encode_state(state)
    works = method.assign(state, 2, MEMBERS)
    method.close(state, 2, answers(works, x=[1, 1, 1, 1, 2], y=[3, 1, 0]))
    assert encode_state(state) == before
    assert INITIAL["w"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1]


def trained_to(state: RunState, works, w):
    """Answers of one device that trains the weight to these values wherever it holds it."""
    change = (np.array(w, np.float32) - state.model.theta["w"])[works["x"].supports["w"].dense_mask().ravel()]
    return answers(works, x=[*change, 0])


@pytest.mark.parametrize("topology", [Static(), Dynamic(prune_share=0.4, every_rounds=1, between="reprune")])
@pytest.mark.parametrize("rates", [ByContribution(), Capability()])
def test_dense_rounds_keep_everything_and_end_in_the_largest_trained_weights(topology, rates):
    pruning = Pruning(sparsity=0.5, layers=UniformLayers(), dense_rounds=3)
    method = method_of(Parts(pruning=pruning, topology=topology, rates=rates))
    # y is five times as slow: by capability it is pruned further as soon as anybody may be.
    points = (Point(0.0, 2.0), Point(0.9, 0.2))
    slow = tuple(Point(p.sparsity, 5 * p.seconds) for p in points)
    members = {"x": Present(30, Known(points)), "y": Present(10, Known(slow))}
    state = method.init()
    for round_index in (1, 2, 3):
        assert state.model.masks["w"].all()
        works = method.assign(state, round_index, members)
        assert works["x"] is works["y"], "rates wait"
        assert works["x"].supports["w"].dense_mask().all()
        closed = method.close(state, round_index, trained_to(state, works, [0, 1, 0, 2, 0, 3, 0, -4]))
        state = closed.state
    assert closed.averaged.masks["w"].all(), "what is evaluated is the model of the round"
    assert state.model.masks["w"].tolist() == [False, True] * 4
    works = method.assign(state, 4, members)
    assert works["x"].supports["w"].count == 4
    assert (works["y"].supports["w"].count < 4) == isinstance(rates, Capability)


def test_a_moving_mask_moves_after_its_rounds_only_and_keeps_its_counts():
    topology = Dynamic(prune_share=0.4, every_rounds=2)
    method = method_of(Parts(pruning=PARTS.pruning, topology=topology, residual=Keep()))
    state, moved = method.init(), []
    for round_index in range(1, 21):
        works = method.assign(state, round_index, {"x": Present(30)})
        closed = method.close(state, round_index, answers(works, x=[1, 1, 1, 1, 0]))
        assert np.count_nonzero(closed.state.model.masks["w"]) == 4
        if not np.array_equal(closed.state.model.masks["w"], state.model.masks["w"]):
            moved.append(round_index)
        state = closed.state
    # 20 rounds: until three quarters of them, every second one; growth may pick what was just pruned.
    assert moved
    assert set(moved) <= set(range(2, 15, 2))


def test_a_tensor_that_nobody_sent_keeps_its_mask():
    method = method_of(Parts(pruning=PARTS.pruning, topology=Dynamic(prune_share=0.9, every_rounds=1)))
    state = method.init()
    for round_index in range(1, 10):
        bias = {"b": Kept(np.ones(1, np.float32), Support.everything((1,)))}
        only_bias = Answers({"x": 30}, lambda bias=bias: iter([Update("x", bias, 30)]))
        state = method.close(state, round_index, only_bias).state
        assert state.model.masks["w"].tolist() == HALF
    assert state.model.theta["b"].tolist() == [9.0]


def test_only_rates_by_capability_need_the_times_of_devices():
    assert method_of(Parts(rates=Capability())).needs_times
    assert not method_of().needs_times


def test_what_cannot_be_composed_or_closed_is_refused():
    method = method_of()
    with pytest.raises(UsageError, match="without updates"):
        method.close(method.init(), 1, Answers({}, lambda: iter([])))
    nothing_to_prune = Facts(FACTS.shapes, FACTS.roles, frozenset(), INITIAL)
    with pytest.raises(UsageError, match="no prunable weight"):
        compose(PARTS, nothing_to_prune, round_count=2, seed=0).init()
