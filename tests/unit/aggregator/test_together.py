"""Dense rounds, rates and personal tensors in one run: who gets which mask, and what becomes of the values."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aggregator.core.layers import Erk
from aggregator.core.layers.counts import keep_counts
from aggregator.core.pruning import shapes_of
from aggregator.demo.plan import Options, device_arrays, make_plan
from aggregator.federation import Federation
from aggregator.settings import ModelSection
from aggregator.simulation.in_process import InProcessRun, run_in_process
from device_runtime.data import LocalData
from device_runtime.personal import LAST, Choice
from device_runtime.wire.support import Support

HEAD = ("fc3.bias", "fc3.weight")
DENSE_ROUNDS, ROUNDS, SPARSITY = 2, 4, 0.9
BY_CONTRIBUTION = {"kind": "contribution", "kappa": 0.09, "sparsity_max": 0.99}
EVERYONE: dict[str, Choice] = dict.fromkeys(("device-01", "device-02", "device-03"), LAST)


@dataclass
class Recorded:
    """By round and device: where the submodel sits, and its sparsity; and how the run ended."""

    supports: list[dict[str, Mapping[str, Support]]]
    sparsities: list[dict[str, float]]
    ended: InProcessRun


def run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    residual: str = "trained",
    rates: object = BY_CONTRIBUTION,
    personal: Mapping[str, Choice] = {},
    dense_rounds: int = DENSE_ROUNDS,
    model: str = "mlp",
) -> Recorded:
    """Four short rounds of three devices, one of them with noisy labels, so that weights differ."""
    options = Options(
        rounds=ROUNDS, devices=3, partition="iid", noise="pair:0.8@1", model=ModelSection(name=model),
        tables={
            "training": {"local_epochs": 1}, "pruning": {"sparsity": SPARSITY, "dense_rounds": dense_rounds},
            "residual": residual, "rates": rates,
        },
    )  # fmt: skip
    plan = make_plan(options, folder)
    folder.mkdir()
    np.savez(folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
    pairs = zip(plan.devices, device_arrays(options, plan), strict=True)
    supports: list[dict[str, Mapping[str, Support]]] = []
    sparsities: list[dict[str, float]] = []
    assign = Federation.assign

    def recording(self, *args, **kwargs):
        assignments, bytes_max = assign(self, *args, **kwargs)
        supports.append({a.device: self.submodels.supports_of(a) for a in assignments})
        sparsities.append({a.device: self.submodels.sparsity_of(a) for a in assignments})
        return assignments, bytes_max

    monkeypatch.setattr(Federation, "assign", recording)
    data = {d.name: LocalData(x, y, d.name) for d, (x, y) in pairs}
    ended = run_in_process(plan.settings, data, folder, "portable", personal)
    return Recorded(supports, sparsities, ended)


@pytest.mark.parametrize("residual", ["trained", "keep", "zero"])
def test_everyone_has_the_whole_model_in_dense_rounds_and_rates_begin_after_them(tmp_path, monkeypatch, residual):
    found = run(tmp_path / "run", monkeypatch, residual=residual)
    for sparsities in found.sparsities[:DENSE_ROUNDS]:
        assert set(sparsities.values()) == {0.0}
    for sparsities, supports in list(zip(found.sparsities, found.supports, strict=True))[DENSE_ROUNDS:]:
        assert min(sparsities.values()) == pytest.approx(SPARSITY, abs=1e-3)
        assert max(sparsities.values()) > SPARSITY + 0.01, "a device of low weight is pruned further"
        widest = supports[min(sparsities, key=sparsities.__getitem__)]
        for device in sparsities:
            for name, support in supports[device].items():
                assert not (support.dense_mask() & ~widest[name].dense_mask()).any()
    model = found.ended.state.model
    off = {n: model.theta[n][~m] for n, m in model.masks.items()}
    if residual == "zero":
        assert not any(values.any() for values in off.values())
    else:
        assert all(values.any() for n, values in off.items() if values.size), "what the dense rounds trained is kept"


@pytest.mark.parametrize("residual", ["trained", "keep", "zero"])
def test_a_layer_that_nobody_uploads_is_pruned_too_when_the_dense_rounds_end(tmp_path, monkeypatch, residual):
    """Else it would stay whole for good, and the model that the run leaves be denser than asked for."""
    found = run(tmp_path / "run", monkeypatch, residual=residual, rates="fixed", personal=EVERYONE)
    model = found.ended.state.model
    counts = keep_counts(shapes_of(model.masks), SPARSITY, Erk())
    assert {n: int(m.sum()) for n, m in model.masks.items()} == counts
    assert found.sparsities[-1] == pytest.approx(dict.fromkeys(EVERYONE, SPARSITY), abs=1e-3)
    first = run(tmp_path / "plain", monkeypatch, residual=residual, rates="fixed", dense_rounds=0)
    as_without = first.supports[0]["device-01"]["fc3.weight"].dense_mask()
    np.testing.assert_array_equal(model.masks["fc3.weight"], as_without)
    assert not model.trained["fc3.weight"].any()


def test_a_personal_layer_loses_what_leaves_the_mask_when_the_dense_rounds_end(tmp_path, monkeypatch):
    found = run(tmp_path / "run", monkeypatch, personal={"device-01": LAST, "device-02": LAST})
    for device in ("device-01", "device-02"):
        own = found.ended.personal[device]
        mask = found.supports[-1][device]["fc3.weight"].dense_mask()
        assert not mask.all()
        assert not own["fc3.weight"][~mask].any()
        assert own["fc3.weight"][mask].all()
    assert found.ended.personal["device-03"] == {}


def test_a_personal_layer_follows_the_masks_of_its_own_device(tmp_path, monkeypatch):
    """By contribution the noisy device's mask is narrower than the others', and not the same in every round."""
    found = run(tmp_path / "run", monkeypatch, personal=EVERYONE, dense_rounds=0)
    masks = [{d: s[d]["fc3.weight"].dense_mask() for d in EVERYONE} for s in found.supports]
    assert any(not np.array_equal(a["device-01"], b["device-01"]) for a, b in pairwise(masks))
    for device in EVERYONE:
        assert not found.ended.personal[device]["fc3.weight"][~masks[-1][device]].any()


def test_statistics_of_normalisations_are_averaged_whole_whatever_the_masks(tmp_path, monkeypatch):
    found = run(tmp_path / "run", monkeypatch, model="resnet8", personal={"device-03": LAST})
    assert all(set(s.values()) == {0.0} for s in found.sparsities[:DENSE_ROUNDS])
    assert len(set(found.sparsities[-1].values())) > 1
    model = found.ended.state.model
    assert all(np.isfinite(v).all() for v in model.theta.values())
    statistics = [n for n in model.theta if n not in model.masks and n.endswith(("running_mean", "running_var"))]
    assert statistics
    for supports in found.supports:
        for name in statistics:
            assert all(s[name].kind == "all" for s in supports.values())
    kept = {n: int(m.sum()) for n, m in model.masks.items()}
    assert kept == keep_counts(shapes_of(model.masks), SPARSITY, Erk())
