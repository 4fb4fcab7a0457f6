"""Personal tensors as values: which they are, what training begins from, what is taken over."""

import numpy as np
import pytest

from device_runtime.personal import LAST, Personal, check_choice, personal_names, work_of
from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import LocalWireError, UsageError
from device_runtime.wire.manifest import InputSpec, Manifest, Optimizer, Parameter
from device_runtime.wire.support import Kept, Support
from export.models.zoo import build_model
from tests import fakes


def manifest(parameters, weights):
    """A manifest of (name, shape, role), with contractions of `weights` in this order ("" is one of activations)."""
    costs = [
        NodeCost(node=w, op="Gemm", weight=w, weight_count=1, flops_forward=1, flops_backward_input=1,
                 flops_backward_weight=1) for w in weights
    ]  # fmt: skip
    return Manifest(
        model="m", engine="fake", input=InputSpec(shape=(4,)), class_count=2, loss="cross_entropy",
        optimizer=Optimizer(), costs=tuple(costs), files=(), opset=17, ir_version=8,
        parameters=tuple(Parameter(name=n, shape=s, role=r, prunable=r == "weight") for n, s, r in parameters),
    )  # fmt: skip


FC1 = [("fc1.weight", (8, 4), "weight"), ("fc1.bias", (8,), "bias")]
HEAD = [("head.weight", (2, 8), "weight"), ("head.bias", (2,), "bias")]


# --- which --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "weights", "expected"),
    [
        ([*FC1, *HEAD], ["fc1.weight", "head.weight"], ("head.bias", "head.weight")),
        # The order of the graph decides, not that of the table; an attention's product of activations is no layer.
        ([*HEAD, *FC1], ["fc1.weight", "head.weight", ""], ("head.bias", "head.weight")),
        ([*FC1, HEAD[0]], ["fc1.weight", "head.weight"], ("head.weight",)),
        # Without dots in the names a layer without a bias is known by the lengths.
        ([*FC1, ("onnx::MatMul_7", (8, 2), "weight")], ["fc1.weight", "onnx::MatMul_7"], ("onnx::MatMul_7",)),
    ],
)
def test_the_last_layer_is_that_of_the_last_contraction(parameters, weights, expected):
    assert personal_names(LAST, manifest(parameters, weights)) == expected


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        ("mlp", (1, 8, 8), ("fc3.bias", "fc3.weight")),
        ("cnn1d", (6, 16), ("fc2.bias", "fc2.weight")),
        ("resnet8", (3, 8, 8), ("fc.bias", "fc.weight")),
    ],
)
def test_the_last_layer_of_models_of_the_zoo(model, shape, expected):
    graph = build_model(model, shape, 5, seed=0)
    of_zoo = manifest([(p.name, p.shape, p.role) for p in graph.parameters], [c.weight for c in graph.costs])
    assert personal_names(LAST, of_zoo) == expected


def test_a_bias_that_could_be_the_last_layers_is_not_guessed():
    parameters = [*FC1, ("onnx::MatMul_7", (8, 2), "weight"), ("onnx::Add_8", (2,), "bias")]
    with pytest.raises(UsageError, match=r'personal = \["onnx::MatMul_7", "onnx::Add_8"\]'):
        personal_names(LAST, manifest(parameters, ["fc1.weight", "onnx::MatMul_7"]))


def test_names_are_taken_as_they_stand_statistics_too():
    found = manifest([*FC1, ("bn.running_var", (8,), "statistic"), *HEAD], ["fc1.weight", "head.weight"])
    assert personal_names((), found) == ()
    assert personal_names(("head.weight", "bn.running_var"), found) == ("bn.running_var", "head.weight")


@pytest.mark.parametrize(
    ("choice", "model", "says"),
    [
        (("haed.weight",), [*FC1, *HEAD], "no parameter 'haed.weight'; the nearest are: head.weight"),
        (("?",), [*FC1, *HEAD], r"no parameter '\?'; the nearest are: head.weight, head.bias"),
        (("head.bias", "head.bias"), [*FC1, *HEAD], "named twice"),
        (("fc1.weight", "fc1.bias", "head.weight", "head.bias"), [*FC1, *HEAD], "no weight or bias would be left"),
        (LAST, HEAD, "no weight or bias would be left"),
    ],
)
def test_what_cannot_be_personal_is_refused(choice, model, says):
    weights = [name for name, _, role in model if role == "weight"]
    with pytest.raises(UsageError, match=says):
        personal_names(choice, manifest(model, weights))


def test_a_model_without_layers_has_no_last_one():
    with pytest.raises(UsageError, match="no layer with a weight"):
        personal_names(LAST, manifest(FC1, []))


def test_a_setting_that_is_a_name_alone_is_explained():
    check_choice(LAST, "device.toml")
    check_choice(("fc2.weight",), "device.toml")
    with pytest.raises(UsageError, match=r'device\.toml: personal is \'fc2\.weight\'; use "last", or a list .*\["fc2'):
        check_choice("fc2.weight", "device.toml")


# --- which work ---------------------------------------------------------------------------------------------------


def test_further_attempts_of_a_round_are_the_same_work_and_other_rounds_are_not():
    first = work_of(fakes.assignment(round_index=3))
    assert work_of(fakes.assignment(round_index=3, attempt=2, ttl_s=1.5)) == first
    assert work_of(fakes.assignment(round_index=4)) != first


# --- values -------------------------------------------------------------------------------------------------------

MASK = np.array([[True, False], [True, True]])


def kept(name_values, mask=MASK):
    return {n: Kept(np.array(v, dtype=np.float32), Support.from_mask(mask)) for n, v in name_values.items()}


def dense(values):
    return np.array(values, dtype=np.float32)


def test_the_first_time_the_received_values_are_taken_over_zero_off_the_mask():
    received = kept({"w": [1, 2, 3], "head": [4, 5, 6]})
    begun = Personal(("head",)).completed(received)
    assert begun.values["head"].tolist() == [[4, 0], [5, 6]]
    placed = begun.in_place(received)
    assert {n: k.values.tolist() for n, k in placed.items()} == {"w": [1, 2, 3], "head": [4, 5, 6]}


def test_own_values_stand_in_for_the_received_ones_on_the_support():
    received = kept({"w": [1, 2, 3], "head": [4, 5, 6]})
    own = Personal(("head",), {"head": dense([[10, 20], [30, 40]])}).completed(received)
    placed = own.in_place(received)
    assert {n: k.values.tolist() for n, k in placed.items()} == {"w": [1, 2, 3], "head": [10, 30, 40]}
    assert placed["head"].support is received["head"].support


def test_what_leaves_the_mask_is_forgotten_and_what_comes_to_it_begins_at_zero():
    own = Personal(("head",)).completed(kept({"head": [1, 2, 3]}))  # (0, 1) is off the mask
    own = own.trained(kept({"head": [10, 20, 30]}))
    assert own.values["head"].tolist() == [[10, 0], [20, 30]]
    other = np.array([[True, True], [False, True]])  # (1, 0) leaves, (0, 1) comes
    received = kept({"head": [7, 8, 9]}, other)
    assert own.completed(received).in_place(received)["head"].values.tolist() == [10, 0, 30]
    own = own.completed(received).trained(kept({"head": [11, 5, 31]}, other))
    assert own.values["head"].tolist() == [[11, 5], [0, 31]]
    back = kept({"head": [7, 8, 9]})
    assert own.completed(back).in_place(back)["head"].values.tolist() == [11, 0, 31]


def test_taking_over_changes_nothing_that_was_there_before():
    before = Personal(("head",), {"head": dense([[1, 2], [3, 4]])})
    before.trained(kept({"head": [9, 9, 9]}))
    assert before.values["head"].tolist() == [[1, 2], [3, 4]]


def test_values_that_diverged_are_not_taken_over():
    own = Personal(("head",), {"head": dense([[1, 2], [3, 4]])})
    with pytest.raises(LocalWireError, match="'head' has values that are not finite: the training diverged"):
        own.trained(kept({"head": [1, np.inf, 3]}))
