"""The cost table agrees with torch's own flop counter, forward and backward, to the last FLOP."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from export.models.zoo import build_model

torch = pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.parametrize("name", ["lenet5", "cnn", "resnet8"])
def test_flops_equal_torchs(
    name: str, torch_twins: Mapping[str, Callable[[int], Any]], input_shapes: Mapping[str, tuple[int, ...]]
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    twin, samples = torch_twins[name](10), 2
    x = torch.randn(samples, *input_shapes[name])
    with FlopCounterMode(display=False) as forward:
        loss = twin(x).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    rows = build_model(name, input_shapes[name], 10, seed=1).costs
    assert samples * sum(row.flops_forward for row in rows) == forward.get_total_flops()
    gradients = sum(row.flops_backward_input + row.flops_backward_weight for row in rows)
    assert samples * gradients == backward.get_total_flops()
