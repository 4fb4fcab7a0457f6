"""Submodels of several sparsities: blobs shared by sparsity, updates read by the assignment's own masks, restarts."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import numpy as np
import pytest

from aggregator.core.layers import Erk
from aggregator.core.layers.counts import keep_counts
from aggregator.core.method import Present
from aggregator.core.pruning import Pruning
from aggregator.core.topologies import Static
from aggregator.core.weighting import UniformWeights
from aggregator.federation import Federation
from aggregator.settings import RoundsSection, RunSection, Settings
from device_runtime.personal import work_of
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.messages import Assignment, Offer
from device_runtime.wire.submodel import decode_kept, decode_supports, encode_kept
from device_runtime.wire.support import Kept, sha256_hex
from tests import fakes

SPARSITIES = {"b": 0.9, "c": 0.9}
SETTINGS = Settings(
    run=RunSection(folder="RUN", seed=3),
    input=InputSpec(shape=(1, 8, 8)),
    pruning=Pruning(sparsity=0.8),
    topology=Static(),
    weighting=UniformWeights(),
    rates=fakes.Given(SPARSITIES),
)
ENGINES = {name: ["portable"] for name in ("a", "b", "c")}
HERE = {name: Present(20) for name in ENGINES}


def rated(federation, sparsities: Mapping[str, float], folder) -> Federation:
    """The same federation with other rates."""
    return Federation(msgspec.structs.replace(federation.settings, rates=fakes.Given(sparsities)), folder)


def assigned(federation, state, round_index=1, attempt=0, engines=ENGINES, earlier=MappingProxyType({})):
    """The assignments of a round, and the most bytes of an update."""
    return federation.assign(state, ("run", round_index, attempt), engines, HERE, earlier)


@pytest.fixture
def federation(tmp_path):
    return Federation(SETTINGS, tmp_path)


def shapes(federation):
    return {p.name: p.shape for p in federation.model.parameters}


def prunable(federation):
    return {p.name: p.shape for p in federation.model.parameters if p.prunable}


def supports_of(federation, assignment: Assignment):
    return decode_supports(federation.blobs.get(assignment.support_shas[0]), shapes(federation))


def offer_of(federation, assignment: Assignment, value: float) -> tuple[Offer, bytes]:
    """An update of one value at every kept coordinate, stored."""
    delta = {n: Kept(np.full(s.count, value, np.float32), s) for n, s in supports_of(federation, assignment).items()}
    data = encode_kept(delta, lambda _: "fp32", lambda n: Draws(0, n))
    federation.blobs.put(data)
    return fakes.offer(assignment, data), data


def test_devices_of_one_sparsity_share_their_blobs_and_others_have_their_own(federation):
    state = federation.start()
    (a, b, c), bytes_max = assigned(federation, state)
    assert (b.params_sha, b.support_shas) == (c.params_sha, c.support_shas)
    assert a.params_sha != b.params_sha
    assert a.support_shas != b.support_shas
    assert bytes_max >= max(len(offer_of(federation, x, 1.0)[1]) for x in (a, b))


def test_without_rates_the_assignments_are_those_of_the_runs_sparsity(federation, tmp_path):
    state = federation.start()
    plain, plain_max = assigned(rated(federation, {}, tmp_path), state)
    (a, _, _), bytes_max = assigned(federation, state)
    assert plain[0] == a
    assert plain_max == bytes_max


def test_a_further_attempt_has_the_submodels_of_the_first_whatever_the_rates_say_by_now(federation, tmp_path):
    """Also after a restart; a device that joins gets what the rates say."""
    state = federation.start()
    two = {name: ENGINES[name] for name in ("a", "b")}
    first = {x.device: x for x in assigned(federation, state, engines=two)[0]}
    changed = {"a": 0.95, "b": 0.8, "c": 0.9}
    of = rated(federation, changed, tmp_path)
    for _ in range(2):
        second = {x.device: x for x in assigned(of, state, attempt=1, earlier=first)[0]}
        for name, before in first.items():
            assert second[name].id != before.id
            assert work_of(second[name]) == work_of(before)
        assert of.submodels.sparsity_of(second["c"]) == of.submodels.sparsity_of(first["b"])


def test_rates_wait_until_the_dense_rounds_are_over(tmp_path):
    settings = msgspec.structs.replace(
        SETTINGS, pruning=msgspec.structs.replace(SETTINGS.pruning, dense_rounds=1), rounds=RoundsSection(count=3)
    )
    federation = Federation(settings, tmp_path)
    state = federation.start()
    dense, dense_max = assigned(federation, state)
    assert {federation.submodels.sparsity_of(a) for a in dense} == {0.0}
    assert len({(a.params_sha, a.support_shas) for a in dense}) == 1
    offers = {a.device: offer_of(federation, a, 1.0)[0] for a in dense}
    assert dense_max >= max(o.size_bytes for o in offers.values())
    state = federation.close(state, 1, HERE, offers, {a.device: a for a in dense}).state
    pruned, pruned_max = assigned(federation, state, 2)
    assert [federation.submodels.sparsity_of(a) for a in pruned] == pytest.approx([0.8, 0.9, 0.9], abs=1e-3)
    assert pruned_max < dense_max


def test_a_sparser_submodel_lies_inside_the_runs_with_its_own_counts_and_the_models_values(federation):
    state = federation.start()
    (a, b, _), _ = assigned(federation, state)
    wide, narrow = supports_of(federation, a), supports_of(federation, b)
    counts = keep_counts(prunable(federation), 0.9, Erk())
    for name in prunable(federation):
        assert not (narrow[name].mask & ~wide[name].mask).any()
        assert narrow[name].count == min(counts[name], wide[name].count)
    kept = decode_kept(federation.blobs.get(b.params_sha), narrow)
    for name, part in kept.items():
        assert (part.values == narrow[name].gather(state.model.theta[name])).all()
    total = sum(int(np.prod(s)) for s in prunable(federation).values())
    assert federation.submodels.sparsity_of(a) == pytest.approx(0.8, abs=1 / total)
    assert federation.submodels.sparsity_of(b) == pytest.approx(0.9, abs=1 / total)


def test_an_update_is_read_by_the_masks_of_its_own_assignment(federation):
    (a, b, _), _ = assigned(federation, federation.start())
    offer, data = offer_of(federation, b, 1.0)
    federation.submodels.check(b, offer, data)
    with pytest.raises(RemoteWireError, match="values were expected"):
        federation.submodels.check(a, offer, data)


def test_an_aggregator_that_starts_again_reads_the_masks_from_their_blobs(federation, tmp_path):
    state = federation.start()
    assignments, _ = assigned(federation, state)
    offers = {x.device: offer_of(federation, x, 0.25 * (i + 1))[0] for i, x in enumerate(assignments)}
    answered = {x.device: x for x in assignments}
    expected = federation.close(state, 1, HERE, offers, answered)
    again = Federation(SETTINGS, tmp_path)
    for x in assignments:
        again.submodels.check(x, offers[x.device], federation.blobs.get(offers[x.device].update_sha))
    outcome = again.close(state, 1, HERE, offers, answered)
    assert outcome.scores == expected.scores
    for name, value in expected.state.model.theta.items():
        assert outcome.state.model.theta[name].tobytes() == value.tobytes()
    assert again.submodels.sparsity_of(assignments[1]) == federation.submodels.sparsity_of(assignments[1])


def test_masks_that_are_missing_are_named(federation):
    assignment = fakes.assignment()
    with pytest.raises(UsageError, match=f"masks {sha256_hex(b'supports')[:12]} of pi-1 are missing"):
        federation.submodels.check(assignment, fakes.offer(assignment), b"")


def test_each_coordinate_moves_by_the_mean_of_those_that_hold_it(federation):
    state = federation.start()
    assignments, _ = assigned(federation, state)
    values = {"a": 1.0, "b": 2.0, "c": 6.0}
    offers = {x.device: offer_of(federation, x, values[x.device])[0] for x in assignments}
    outcome = federation.close(state, 1, HERE, offers, {x.device: x for x in assignments})
    wide, narrow = supports_of(federation, assignments[0]), supports_of(federation, assignments[1])
    for name in prunable(federation):
        before, after = state.model.theta[name], outcome.state.model.theta[name]
        inner, outer = narrow[name].mask, wide[name].mask & ~narrow[name].mask
        assert after[inner] == pytest.approx(before[inner] + 3.0)  # (1 + 2 + 6) / 3
        assert after[outer] == pytest.approx(before[outer] + 1.0)
        assert after[~wide[name].mask].tobytes() == before[~wide[name].mask].tobytes()
        assert (outcome.state.model.trained[name] == wide[name].mask).all()
    assert outcome.scores["b"] == pytest.approx(1.0)
    assert outcome.scores["b"] > outcome.scores["a"] > 0.9
