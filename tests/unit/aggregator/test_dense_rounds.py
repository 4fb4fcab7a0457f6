"""A run with dense rounds is FedAvg until they end, and prunes what it trained by magnitude then."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.core.pruning import Pruning, shapes_of
from aggregator.demo.plan import Options, device_arrays, make_plan
from aggregator.settings import check_settings
from aggregator.simulation.in_process import InProcessRun, run_in_process
from device_runtime.data import LocalData
from device_runtime.wire.errors import UsageError


def run(folder: Path, rounds: int = 3, **tables: object) -> InProcessRun:
    options = Options(
        rounds=rounds,
        devices=2,
        partition="iid",
        noise="none",
        tables={"training": {"local_epochs": 1}, "weighting": "samples", **tables},
    )
    plan = make_plan(options, folder)
    folder.mkdir()
    np.savez(folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
    pairs = zip(plan.devices, device_arrays(options, plan), strict=True)
    return run_in_process(plan.settings, {d.name: LocalData(x, y, d.name) for d, (x, y) in pairs}, folder)


def test_dense_rounds_are_a_dense_run_and_end_in_a_mask_of_trained_weights(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    dense = run(tmp_path / "dense", rounds=2, pruning={"sparsity": 0.0}, topology="static")
    both = run(tmp_path / "both", pruning={"sparsity": 0.9, "dense_rounds": 2})
    trained, pruned = dense.state.model.theta, both.outcomes[1].state.model
    for name, value in trained.items():
        np.testing.assert_array_equal(pruned.theta[name], value)
    masks = Pruning().masks(trained, shapes_of(pruned.masks), 0.9)
    for name, mask in masks.items():
        np.testing.assert_array_equal(pruned.masks[name], mask)
    kept = sum(int(m.sum()) for m in both.state.model.masks.values())
    assert kept == round(0.1 * sum(m.size for m in masks.values()))
    # The third round's updates are sparse: far less than half a dense round.
    assert both.update_bytes - dense.update_bytes < 0.25 * dense.update_bytes


def test_a_run_without_a_pruned_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dense_rounds is 3 of 3 rounds; leave at least one"):
        run(tmp_path / "run", pruning={"dense_rounds": 3})
    plan = make_plan(Options(rounds=3, tables={"pruning": {"dense_rounds": 2}}), tmp_path)
    check_settings(plan.settings)
