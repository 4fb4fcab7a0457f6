"""The optimizer's rule decides who applies it, and nonsense is refused by name."""

from typing import Any

import pytest

from device_runtime.wire.errors import UsageError
from export.steps.optimizers import choose_optimizer


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"name": "sgd"}, "graph"),
        ({"name": "sgd", "momentum": 0.9}, "host"),
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, "host"),
        ({"name": "sgd", "weight_decay": 1e-4}, "host"),
        ({"name": "adamw"}, "graph"),
        ({"name": "adamw", "weight_decay": 0.01}, "graph"),
        ({"name": "sgd", "proximal_mu": 0.1, "clip_norm": 1.0}, "graph"),
        ({"name": "sgd", "momentum": 0.9, "proximal_mu": 0.1}, "host"),
    ],
)
def test_the_graph_applies_what_it_can(arguments: dict[str, Any], where: str) -> None:
    assert choose_optimizer(**arguments).where == where


def test_values_are_kept() -> None:
    chosen = choose_optimizer("adamw", weight_decay=0.01, beta1=0.8, beta2=0.9, epsilon=1e-7)
    assert (chosen.name, chosen.weight_decay, chosen.beta1, chosen.beta2, chosen.epsilon) == (
        "adamw",
        0.01,
        0.8,
        0.9,
        1e-7,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "adam"}, "no optimizer 'adam': choose sgd or adamw"),
        ({"name": "sgd", "nesterov": True}, "give a momentum above 0"),
        ({"name": "sgd", "momentum": -0.1}, "momentum is -0.1"),
        ({"name": "sgd", "momentum": 1.0}, "below 1"),
        ({"name": "sgd", "weight_decay": -1.0}, "weight decay is -1"),
        ({"name": "sgd", "weight_decay": float("nan")}, "weight decay is nan"),
        ({"name": "adamw", "momentum": 0.9}, "momentum belongs to sgd"),
        ({"name": "adamw", "beta2": 1.0}, "beta2 is 1"),
        ({"name": "adamw", "epsilon": 0.0}, "epsilon is 0"),
        ({"name": "sgd", "proximal_mu": -1.0}, "proximal_mu is -1: give a value of at least 0"),
        ({"name": "sgd", "clip_norm": float("inf")}, "clip_norm is inf"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        choose_optimizer(**arguments)
