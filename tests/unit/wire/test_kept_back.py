"""What an update may lack: known parameters, each once, and never every weight and bias."""

import pytest

from device_runtime.wire.kept_back import fault, sent
from device_runtime.wire.limits import KEPT_BACK_COUNT_MAX
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.support import Support

ROLES = {
    "fc1.weight": "weight",
    "fc1.bias": "bias",
    "bn.weight": "norm",
    "bn.running_mean": "statistic",
    "fc2.weight": "weight",
    "fc2.bias": "bias",
}
PARAMETERS = [Parameter(name=n, shape=(2,), role=role, prunable=False) for n, role in ROLES.items()]


@pytest.mark.parametrize(
    "names",
    [(), ("fc2.weight", "fc2.bias"), ("bn.running_mean",), ("fc1.weight", "fc2.weight", "fc2.bias", "bn.weight")],
)
def test_parameters_may_be_kept_back_as_long_as_a_weight_or_bias_is_sent(names):
    assert fault(names, PARAMETERS) == ""


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("fc2.weight", "fc2.wieght"), "no parameter 'fc2.wieght'"),
        (("fc2.bias", "fc2.bias"), "named twice"),
        (tuple(ROLES), "no weight or bias would be left"),
        (("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"), "no weight or bias would be left"),
    ],
)
def test_what_may_not_be_kept_back_is_said_in_a_sentence(names, says):
    assert says in fault(names, PARAMETERS)


def test_more_names_than_an_offer_holds_are_refused():
    many = [Parameter(name=f"p{i}", shape=(1,), role="norm", prunable=False) for i in range(KEPT_BACK_COUNT_MAX + 1)]
    names = tuple(p.name for p in many)
    assert fault(names[:-1], [*PARAMETERS, *many]) == ""
    assert "more than the 256" in fault(names, [*PARAMETERS, *many])


def test_what_is_sent_is_the_rest_in_order():
    supports = {n: Support.everything((2,)) for n in ROLES}
    assert list(sent(supports, ("fc1.bias", "bn.weight"))) == [
        "fc1.weight",
        "bn.running_mean",
        "fc2.weight",
        "fc2.bias",
    ]
    assert sent(supports, ()) == supports
