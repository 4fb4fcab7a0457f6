"""Recipes: small files, each what it is called, each FedAvg where nothing of its own is left."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from aggregator.core.combining.partial import Answers, Update
from aggregator.core.composed import Parts, compose
from aggregator.core.layers import ErkSparsity, UniformLayers
from aggregator.core.layers.counts import keep_counts
from aggregator.core.method import Facts
from aggregator.core.pruning import Pruning, shapes_of
from aggregator.core.residuals import Zero
from aggregator.core.topologies import ByDevices
from aggregator.core.weighting import UniformWeights
from aggregator.demo.plan import Options, device_arrays, make_plan
from aggregator.recipes import RECIPES
from aggregator.simulation.in_process import InProcessRun, run_in_process
from device_runtime.data import LocalData
from device_runtime.wire.support import Kept, Support

ROOM = Path(__file__).parents[3] / "aggregator" / "recipes"
DENSE = {"sparsity": 0.0}


def run(folder: Path, recipe: object, rounds: int = 2, **tables: Mapping[str, object] | str) -> InProcessRun:
    """Some short rounds of three devices, one of them noisy, with engine portable."""
    training = {"local_epochs": 2, "batch_size": 64, **dict(tables.pop("training", {}))}
    options = Options(rounds=rounds, devices=3, tables={"method": recipe, "training": training, **tables})
    plan = make_plan(options, folder)
    folder.mkdir()
    np.savez(folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
    pairs = zip(plan.devices, device_arrays(options, plan), strict=True)
    return run_in_process(plan.settings, {d.name: LocalData(x, y, d.name) for d, (x, y) in pairs}, folder, "portable")


def assert_equal_models(a: InProcessRun, b: InProcessRun) -> None:
    for name, value in a.state.model.theta.items():
        np.testing.assert_array_equal(value, b.state.model.theta[name], err_msg=name)


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda p: p.stem)
def test_a_recipe_is_one_small_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("recipe", RECIPES.kinds)
def test_a_recipe_file_is_called_as_the_recipe_and_names_its_source(recipe: str) -> None:
    text = (ROOM / f"{recipe}.py").read_text()
    assert f'tag="{recipe}"' in text
    assert "20" in text.split('"""')[1], "the docstring has the year of the source"


@pytest.mark.parametrize(
    ("recipe", "tables"),
    [
        ("fedprox", {"training": {"proximal_mu": 0.0}}),
        ("feddst", {"pruning": DENSE, "topology": "static"}),
        ("thesis", {"pruning": DENSE, "topology": "static", "weighting": "samples"}),
    ],
)
def test_without_what_makes_it_a_recipe_is_fedavg_bit_for_bit(tmp_path: Path, recipe: str, tables: dict) -> None:
    assert_equal_models(run(tmp_path / "fedavg", "fedavg"), run(tmp_path / "run", recipe, **tables))


def test_fedavg_is_the_mean_of_its_devices_by_samples(tmp_path: Path) -> None:
    found = run(tmp_path / "run", "fedavg", rounds=1)
    counts = dict(found.state.memory.record["weighting"]["sample_counts"])
    assert found.outcomes[0].weights == {d: n / sum(counts.values()) for d, n in counts.items()}
    assert all(mask.all() for mask in found.state.model.masks.values())


def test_fedprox_holds_devices_near_what_they_were_sent(tmp_path: Path) -> None:
    free = run(tmp_path / "free", "fedavg", rounds=1)
    held = run(tmp_path / "held", {"recipe": "fedprox"}, rounds=1, training={"proximal_mu": 1.0})
    start = run(tmp_path / "start", "fedavg", rounds=1, training={"local_epochs": 0}).state.model.theta
    far, near = (sum(float(np.sum((r.state.model.theta[n] - v) ** 2)) for n, v in start.items()) for r in (free, held))
    assert 0.0 < near < 0.9 * far


def test_feddst_masks_move_on_devices_and_end_with_the_layers_own_counts(tmp_path: Path) -> None:
    every = {"every_rounds": 1, "end_round": 9, "prune_share": 0.3}
    moved = run(tmp_path / "moved", "feddst", rounds=3, topology=every)
    still = run(tmp_path / "still", "feddst", rounds=3, topology="static")
    masks, before = moved.state.model.masks, still.state.model.masks
    counts = keep_counts(shapes_of(masks), 0.8, ErkSparsity())
    assert {n: int(m.sum()) for n, m in masks.items()} == counts
    exchanged = {n: int((m & ~before[n]).sum()) for n, m in masks.items()}
    assert all(count > 0 for n, count in exchanged.items() if masks[n].size > 1000)
    for name, mask in masks.items():
        theta = moved.state.model.theta[name]
        assert not theta[~mask].any(), "nothing stands off the mask"
    grown = masks["fc1.weight"] & ~before["fc1.weight"]
    assert moved.state.model.theta["fc1.weight"][grown].any(), "what was grown was trained"


def test_a_round_of_feddst_by_hand(tmp_path: Path) -> None:
    """A coordinate that all devices dropped is gone, one that some hold is the mean over those, the best stay."""
    initial = {"w": np.array([[5.0, 4.0, 3.0, 1.0, 1.0, 1.0]], dtype=np.float32)}
    facts = Facts({"w": (1, 6)}, {"w": "weight"}, frozenset({"w"}), initial)
    parts = Parts(
        pruning=Pruning(sparsity=0.5, layers=UniformLayers()),
        topology=ByDevices(every_rounds=1, end_round=9),
        residual=Zero(),
        weighting=UniformWeights(),
    )
    method = compose(parts, facts, round_count=10, seed=0)
    state = method.init()
    assert state.model.masks["w"].tolist() == [[True, True, True, False, False, False]]

    def update(device: str, kept: list[int], values: list[float]) -> Update:
        mask = np.zeros((1, 6), dtype=np.bool_)
        mask[0, kept] = True
        return Update(device, {"w": Kept(np.array(values, dtype=np.float32), Support.from_mask(mask))}, 10)

    # Both dropped coordinate 2 (value 3); a grew 3, b grew 4 and dropped 1 for 5.
    updates = [update("a", [0, 1, 3], [1.0, 0.0, 9.0]), update("b", [0, 4, 5], [3.0, 0.5, 6.0])]
    closed = method.close(state, 1, Answers({"a": 10, "b": 10}, lambda: iter(updates)))
    # 0: 5 + (1+3)/2 = 7 of both; 1: 4 of a; 3: 9 of a; 4: 0.5 of b; 5: 6 of b; 2: nobody's.
    assert closed.state.model.masks["w"].tolist() == [[True, False, False, True, False, True]]
    assert closed.state.model.theta["w"].tolist() == [[7.0, 0.0, 0.0, 9.0, 0.0, 6.0]]
