"""Whatever the optimizer and the masks, changing from step to step: pruned weights stay +0 and nothing revives them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.wire.manifest import Optimizer, mask_name
from export.forward.parameters import initial_params
from export.models.zoo import build_model
from export.train_step import train_step

ort: Any = pytest.importorskip("onnxruntime")

optimizers = st.builds(
    Optimizer,
    name=st.sampled_from(["sgd", "adamw"]),
    momentum=st.sampled_from([0.0, 0.9]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.5]),
    clip_norm=st.sampled_from([0.0, 0.01]),
    proximal_mu=st.sampled_from([0.0, 2.0]),
)


@settings(max_examples=15, deadline=None)
@given(optimizer=optimizers, seed=st.integers(0, 1000))
def test_pruned_weights_stay_zero(optimizer: Optimizer, seed: int) -> None:
    model = build_model("cnn1d", (2, 16), 3, seed=seed)
    step = train_step(model, loss="cross_entropy", optimizer=optimizer)
    session = ort.InferenceSession(step.train.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = initial_params(model) | {s.name: np.zeros(s.shape, s.dtype) for s in step.states}
    anchors = {i.name: values[i.name.removesuffix(".anchor")] for i in session.get_inputs() if ".anchor" in i.name}
    for _ in range(3):
        masks = {mask_name(p.name): rng.random(p.shape) < 0.5 for p in step.parameters if p.prunable}
        feed = {
            "input": rng.normal(size=(4, 2, 16)).astype(np.float32),
            "labels": rng.integers(0, 3, 4),
            "learning_rate": np.array(0.1, np.float32),
        }
        _, _, *following = session.run(None, feed | values | masks | anchors)
        values = dict(zip(values, following, strict=True))
        for name in initial_params(model):
            if mask_name(name) in masks:
                pruned = values[name][~masks[mask_name(name)]]
                assert not pruned.any()
                assert not np.signbit(pruned).any()
                for state in (s.name for s in step.states if s.name.startswith(f"{name}.")):
                    assert not values[state][~masks[mask_name(name)]].any()
