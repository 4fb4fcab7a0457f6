"""A device that moves its masks in the middle of an assignment: masks, values, update and FLOPs, checked by hand."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from device_runtime.data import LocalData, batches
from device_runtime.engines import available_engines
from device_runtime.personal import Personal
from device_runtime.training import NOTHING_PERSONAL, Result, Traffic, Workbench, open_workbench
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import EngineError, LocalWireError, RemoteWireError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.measurement import NO_PHASE
from device_runtime.wire.messages import Assignment, Hyper, MaskAdjustment
from device_runtime.wire.submodel import encode_kept, encode_supports
from device_runtime.wire.support import FloatArray, Kept, Support, cut
from device_runtime.wire.tensors import decode_tensors
from device_runtime.wire.update import decode_update
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.parameters import initial_params
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests import fakes

HYPER = Hyper(seed=7, epoch_count=3, batch_size=8, learning_rate=0.05, update_dtype="fp32")
ADJUST = MaskAdjustment(after_epochs=2, share=0.4)
INPUT, CLASSES, HIDDEN, SAMPLES = 6, 3, (10, 8), 20
DEVICES = ("pi-1", "pi-2")
Masks = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """Two devices of one engine, each with data of its own, and the model they begin from, pruned at random."""

    benches: Mapping[str, Workbench]
    theta: Mapping[str, FloatArray]
    supports: Mapping[str, Support]

    def train(
        self, assignment: Assignment, theta: Mapping[str, FloatArray], supports: Mapping[str, Support],
        personal: Personal = NOTHING_PERSONAL,
    ) -> Result:  # fmt: skip
        """What the device of the assignment makes of these parameters."""
        sent = cut(theta, supports)
        params = encode_kept(sent, lambda _: "fp32", lambda n: Draws(0, "unused", n))
        traffic = Traffic(0, 0, NO_PHASE, NO_PHASE)
        bench = self.benches[assignment.device]
        return bench.carry_out(assignment, params, encode_supports(supports), traffic, lambda *_: None, personal)

    def received(self, assignment: Assignment, result: Result, supports: Mapping[str, Support]) -> dict[str, Kept]:
        """The update as the aggregator reads it."""
        offer = fakes.offer(assignment, result.update, kept_back=result.personal.names, extras=result.extras)
        parameters = self.benches[assignment.device].manifest.parameters
        return decode_update(result.update, offer, assignment, supports, parameters)


def _site(engine: str, folder: Path, scores: bool = True, **optimizer: Any) -> Site:
    model = build_model("mlp", (INPUT,), CLASSES, seed=5, hidden=HIDDEN)
    spec = ArtifactSpec(
        name="mlp", input=InputSpec(shape=(INPUT,)), class_count=CLASSES, loss="cross_entropy",
        optimizer=choose_optimizer("sgd", momentum=0.9, **optimizer), scores=scores,
    )  # fmt: skip
    writer_of(engine)(model, spec, folder)
    benches = {}
    for number, device in enumerate(DEVICES):
        rng = np.random.default_rng(number)
        y = rng.integers(0, CLASSES, SAMPLES)
        x = (rng.normal(size=(SAMPLES, INPUT)) + y[:, None]).astype(np.float32)
        benches[device] = open_workbench(folder, LocalData(x, y, device), threads=1, seed=0)
    theta = initial_params(model)
    masks = {n: Draws(1, "mask", n).uniform(w.size).reshape(w.shape) < 0.5 for n, w in theta.items() if w.ndim == 2}
    supports = {n: Support.from_mask(masks[n]) if n in masks else Support.everything(w.shape) for n, w in theta.items()}
    return Site(benches, {n: np.where(masks[n], w, 0) if n in masks else w for n, w in theta.items()}, supports)


@pytest.fixture(params=available_engines(), scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Each engine that can run here, with momentum."""
    return _site(request.param, tmp_path_factory.mktemp("site") / "artifact")


def assigned(
    device: str = "pi-1", round_index: int = 1, adjust: MaskAdjustment | None = ADJUST, **hyper: Any
) -> Assignment:
    """An assignment that asks for moved masks."""
    plain = fakes.assignment(device, round_index, adjust=adjust)
    return msgspec.structs.replace(plain, hyper=msgspec.structs.replace(HYPER, **hyper))


# --- a device without Workbench ------------------------------------------------------------------------------------


def by_lists(weight: FloatArray, mask: np.ndarray, scores: FloatArray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The masks after the smallest went and after the largest came, by sorting lists."""
    w, s, size = weight.ravel(), scores.ravel(), weight.size
    kept = [i for i in range(size) if mask.flat[i]]
    count = math.floor(share * len(kept))
    left = set(kept) - set(sorted(kept, key=lambda i: (abs(w[i]), -i))[:count])
    come = sorted(set(range(size)) - left, key=lambda i: (-s[i], i))[:count]
    return tuple(np.isin(np.arange(size), list(m)).reshape(mask.shape) for m in (left, left | set(come)))


def by_hand(
    site: Site, assignment: Assignment, theta: Mapping[str, FloatArray], supports: Mapping[str, Support]
) -> dict[str, Kept]:
    """The trained values: epoch by epoch on a trainer, with masks from sorted lists in between."""
    bench, hyper, adjust = site.benches[assignment.device], assignment.hyper, assignment.adjust
    assert adjust is not None
    trainer = bench.trainer
    trainer.load(cut(theta, supports), reset_optimizer=True)

    def order(purpose: str, *keys: int) -> Draws:
        return Draws(hyper.seed, purpose, assignment.model_version, assignment.device, *keys)

    for epoch in range(hyper.epoch_count + 1):
        if epoch == adjust.after_epochs:
            chosen = order("scores").permutation(SAMPLES)[: hyper.batch_size]
            scores = trainer.scores(bench.samples.x[chosen], bench.samples.y[chosen])
            for name, values in scores.items():
                mask = supports[name].dense_mask()
                for moved in by_lists(trainer.kept()[name].dense(), mask, values, adjust.share):
                    trainer.remask({name: Support.from_mask(moved)})
        if epoch < hyper.epoch_count:
            for batch in batches(bench.samples, hyper.batch_size, order("batches", epoch)):
                trainer.step(batch.x, batch.y, hyper.learning_rate)
    return trainer.kept()


# --- several rounds ------------------------------------------------------------------------------------------------


def merged(
    theta: Mapping[str, FloatArray], updates: list[dict[str, Kept]], counts: Mapping[str, int]
) -> tuple[dict[str, FloatArray], Masks]:
    """FedDST's server by hand: every coordinate is the mean over its holders, then each layer keeps its largest."""
    after, masks = {}, {}
    for name, before in theta.items():
        holders = sum(u[name].support.dense_mask().astype(int) for u in updates)
        total = sum(np.where(u[name].support.dense_mask(), before + u[name].dense(), 0) for u in updates)
        after[name] = (total / np.maximum(holders, 1)).astype(np.float32)
        if name in counts:
            ranked = sorted(range(before.size), key=lambda i: (-abs(after[name].flat[i]), i))
            masks[name] = np.isin(np.arange(before.size), ranked[: counts[name]]).reshape(before.shape)
            after[name] = np.where(masks[name], after[name], np.float32(0))
    return after, masks


def test_masks_and_values_are_those_of_sorted_lists_over_several_rounds(site: Site) -> None:
    theta, supports = dict(site.theta), dict(site.supports)
    prunable = site.benches["pi-1"].manifest.prunable
    counts = {n: supports[n].count for n in prunable}
    for round_index in (1, 2, 3):
        updates = []
        for device in DEVICES:
            assignment = assigned(device, round_index)
            result = site.train(assignment, theta, supports)
            assert result.extras == ("mask",)
            update = site.received(assignment, result, supports)
            expected = by_hand(site, assignment, theta, supports)
            for name, kept in update.items():
                support = expected[name].support
                assert kept.support.sha == support.sha, "the support is the device's own"
                assert kept.support.count == supports[name].count
                by_definition = expected[name].values - support.gather(np.asarray(theta[name]))
                assert kept.values.tobytes() == by_definition.tobytes()
            for name in prunable:
                new, old = update[name].support.dense_mask(), supports[name].dense_mask()
                assert np.count_nonzero(old & ~new) <= ADJUST.moved(counts[name])
                grown = new & ~old
                assert update[name].dense()[grown].tolist() == expected[name].dense()[grown].tolist(), "minus 0"
            updates.append(update)
        shas = {u["fc1.weight"].support.sha for u in updates}
        assert len(shas | {supports["fc1.weight"].sha}) == 3, "both moved, each its own way"
        theta, masks = merged(theta, updates, counts)
        supports |= {n: Support.from_mask(m) for n, m in masks.items()}
        assert {n: supports[n].count for n in prunable} == counts


@pytest.mark.parametrize("after_epochs", [0, 1, 3])
def test_the_moment_is_after_so_many_epochs(site: Site, after_epochs: int) -> None:
    assignment = assigned(adjust=MaskAdjustment(after_epochs=after_epochs, share=0.4))
    update = site.received(assignment, site.train(assignment, site.theta, site.supports), site.supports)
    expected = by_hand(site, assignment, site.theta, site.supports)
    for name, kept in update.items():
        assert kept.support.sha == expected[name].support.sha
        assert kept.values.tobytes() == (expected[name].values - kept.support.gather(site.theta[name])).tobytes()


def test_after_the_last_epoch_what_came_is_zero_and_only_the_mask_says_that_it_came(site: Site) -> None:
    assignment = assigned(adjust=MaskAdjustment(after_epochs=HYPER.epoch_count, share=0.4))
    update = site.received(assignment, site.train(assignment, site.theta, site.supports), site.supports)
    for name in site.benches["pi-1"].manifest.prunable:
        grown = update[name].support.dense_mask() & ~site.supports[name].dense_mask()
        assert grown.any()
        assert not update[name].dense()[grown].any()


def test_an_interrupted_assignment_made_again_has_the_same_bits(site: Site) -> None:
    assignment = assigned()
    results = [site.train(a, site.theta, site.supports) for a in (assignment, assigned("pi-2"), assignment)]
    again = msgspec.structs.replace(assignment, id="run-1-1-pi-1")  # a further attempt of the round
    results.append(site.train(again, site.theta, site.supports))
    assert results[0].update == results[2].update == results[3].update


def test_the_batch_of_the_scores_has_an_order_of_its_own(site: Site) -> None:
    a = assigned()
    own = Draws(a.hyper.seed, "scores", a.model_version, a.device).permutation(SAMPLES)
    for epoch in range(a.hyper.epoch_count):
        trained = Draws(a.hyper.seed, "batches", a.model_version, a.device, epoch).permutation(SAMPLES)
        assert own.tolist() != trained.tolist()


def test_without_an_adjustment_an_artifact_with_scores_trains_to_the_same_bytes(tmp_path: Path, site: Site) -> None:
    engine = site.benches["pi-1"].engine.name
    plain = _site(engine, tmp_path / "plain", scores=False)
    one, other = (s.train(assigned(adjust=None), s.theta, s.supports) for s in (site, plain))
    assert one.update == other.update
    assert one.extras == ()
    assert {n for n in decode_tensors(one.update) if "#" in n} == set()
    assert one.measurement.flops_executed == other.measurement.flops_executed


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_masks_travel_whole_whatever_the_type_of_the_differences(site: Site, dtype) -> None:
    exact, coarse = assigned(), assigned(update_dtype=dtype)
    one, other = (site.received(a, site.train(a, site.theta, site.supports), site.supports) for a in (exact, coarse))
    for name, kept in one.items():
        assert other[name].support.sha == kept.support.sha
        np.testing.assert_allclose(other[name].values, kept.values, atol=np.abs(kept.values).max() / 100)


# --- together with personal tensors, penalties ---------------------------------------------------------------------


def test_a_personal_layer_keeps_the_mask_of_its_assignment(site: Site) -> None:
    head, assignment = ("fc3.bias", "fc3.weight"), assigned()
    result = site.train(assignment, site.theta, site.supports, Personal(head))
    assert {n for n in decode_tensors(result.update) if "#" in n} == {"fc1.weight#mask", "fc2.weight#mask"}
    update = site.received(assignment, result, site.supports)
    assert set(update) == set(site.supports) - set(head)
    assert update["fc1.weight"].support.sha != site.supports["fc1.weight"].sha
    own = result.personal.values["fc3.weight"]
    off = ~site.supports["fc3.weight"].dense_mask()
    assert not own[off].any()
    assert np.count_nonzero(own[~off]) == np.count_nonzero(~off), "none of its weights went"
    again = site.train(assigned(round_index=2), site.theta, site.supports, result.personal)
    assert again.personal_before.values["fc3.weight"].tobytes() == own.tobytes(), "nothing is lost between rounds"


def test_masks_move_under_a_proximal_term_and_clipping_too(tmp_path: Path) -> None:
    penalised = _site("portable", tmp_path / "artifact", proximal_mu=0.3, clip_norm=0.5)
    assignment = assigned()
    result = penalised.train(assignment, penalised.theta, penalised.supports)
    update = penalised.received(assignment, result, penalised.supports)
    expected = by_hand(penalised, assignment, penalised.theta, penalised.supports)
    for name, kept in update.items():
        assert kept.support.sha == expected[name].support.sha
        assert kept.values.tobytes() == (expected[name].values - kept.support.gather(penalised.theta[name])).tobytes()


def test_a_whole_layer_stays_whole_and_the_others_move(site: Site) -> None:
    supports = {**site.supports, "fc2.weight": Support.everything(site.theta["fc2.weight"].shape)}
    update = site.received(assigned(), site.train(assigned(), site.theta, supports), supports)
    assert update["fc2.weight"].support.dense_mask().all()
    assert update["fc1.weight"].support.sha != supports["fc1.weight"].sha


# --- what is refused, what it costs --------------------------------------------------------------------------------


def test_masks_that_are_to_move_after_the_end_are_refused(site: Site) -> None:
    with pytest.raises(RemoteWireError, match="after 4 epochs, and 3 are trained"):
        site.train(assigned(adjust=MaskAdjustment(after_epochs=4, share=0.4)), site.theta, site.supports)


def test_an_artifact_that_gives_no_scores_is_refused_in_words(tmp_path: Path) -> None:
    plain = _site("portable", tmp_path / "artifact", scores=False)
    with pytest.raises(EngineError, match="made without scores"):
        plain.train(assigned(), plain.theta, plain.supports)


def test_a_training_that_diverged_moves_no_mask(site: Site) -> None:
    huge = {name: w * np.float32(1e30) for name, w in site.theta.items()}
    with pytest.raises(LocalWireError, match="values or gradients that are not finite"):
        site.train(assigned(), huge, site.supports)


def test_flops_count_the_gradient_of_one_batch_more(site: Site) -> None:
    """60 + 80 + 24 weights; a pass is 2 FLOPs per weight and sample, and nothing needs the first layer's input."""
    plain, moved = (
        site.train(assigned(adjust=adjust), site.theta, site.supports).measurement for adjust in (None, ADJUST)
    )
    sizes, (k1, k2, k3) = (60, 80, 24), (site.supports[f"fc{i}.weight"].count for i in (1, 2, 3))
    passes = 2 * (3 * sum(sizes) - sizes[0])
    kept_passes = 2 * (2 * k1 + 3 * k2 + 3 * k3)
    seen, steps = HYPER.epoch_count * SAMPLES, HYPER.epoch_count * 3
    assert plain.flops_dense.value == seen * passes
    assert plain.flops_ideal.value == seen * kept_passes
    masked_dense = seen * passes + 2 * steps * sum(sizes)
    assert plain.flops_executed.value == (seen * kept_passes if plain.engine == "sparse" else masked_dense)
    assert moved.flops_dense.value == (seen + 8) * passes
    # Forward and the input's gradient on kept weights, the weights' own gradients on all.
    scores = 2 * 8 * (k1 + 2 * k2 + 2 * k3 + sum(sizes))
    assert moved.flops_ideal.value == seen * kept_passes + scores
    assert moved.flops_executed.value == plain.flops_executed.value + 8 * passes
    assert moved.step_count == plain.step_count
    assert moved.sample_count == plain.sample_count == seen
