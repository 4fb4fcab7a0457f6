"""What a device promises of personal tensors, whichever engine trains: begun from, taken over, never in an update."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.core.masks import supports_of
from aggregator.core.method import Present, RunState
from aggregator.federation import Federation
from aggregator.settings import ModelSection, RunSection, Settings
from device_runtime.data import LocalData
from device_runtime.engines import available_engines
from device_runtime.personal import LAST, Personal, personal_names
from device_runtime.training import Result, Traffic, Workbench, open_workbench
from device_runtime.wire.errors import LocalWireError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.measurement import NO_PHASE
from device_runtime.wire.messages import Assignment
from device_runtime.wire.submodel import decode_kept
from device_runtime.wire.support import Support
from device_runtime.wire.tensors import decode_tensors
from tests import fakes

HEAD = ("fc2.bias", "fc2.weight")


@dataclass(frozen=True)
class Bench:
    """A workbench with local data, and an assignment for it."""

    workbench: Workbench
    federation: Federation
    state: RunState
    assignment: Assignment

    @property
    def supports(self) -> dict[str, Support]:
        """Where the submodel sits."""
        return supports_of(self.federation.model.facts.shapes, self.state.model.masks)

    def train(self, personal: Personal) -> Result:
        """One assignment, from the same values whenever it is called."""
        blobs = self.federation.blobs
        params, supports = blobs.get(self.assignment.params_sha), blobs.get(self.assignment.support_shas[0])
        assert params is not None
        assert supports is not None
        traffic = Traffic(0, 0, NO_PHASE, NO_PHASE)
        return self.workbench.carry_out(self.assignment, params, supports, traffic, lambda *_: None, personal)

    def check(self, result: Result) -> None:
        """The aggregator's check of the update, by an offer that says what it lacks."""
        offer = fakes.offer(self.assignment, result.update, kept_back=result.personal.names)
        self.federation.submodels.check(self.assignment, offer, result.update)


def _bench(engine: str, model: str, shape: tuple[int, ...], folder: Path) -> Bench:
    rng = np.random.default_rng(0)
    settings = Settings(
        run=RunSection(folder=str(folder)), input=InputSpec(shape=shape), model=ModelSection(name=model, classes=3)
    )
    federation = Federation(settings, folder)
    state = federation.start()
    (assignment,), _ = federation.assign(state, ("run", 1, 0), {"pi-1": [engine]}, {"pi-1": Present(40)})
    y = rng.integers(0, 3, 40)
    x = (rng.normal(size=(40, *shape)) + y.reshape(-1, *[1] * len(shape))).astype(np.float32)
    artifact = federation.artifacts.folder(engine)
    workbench = open_workbench(artifact, LocalData(x, y, "drawn"), threads=1, seed=0)
    return Bench(workbench, federation, state, assignment)


@pytest.fixture(params=available_engines(), scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each engine that can run here, with a one-dimensional convolutional net."""
    return _bench(request.param, "cnn1d", (6, 16), tmp_path_factory.mktemp("run"))


def own_values(bench: Bench, names: tuple[str, ...], seed: int = 1) -> dict[str, np.ndarray]:
    """Dense values of a device's own, off the masks too."""
    rng = np.random.default_rng(seed)
    return {n: rng.normal(scale=0.1, size=bench.supports[n].shape).astype(np.float32) for n in names}


def test_nothing_personal_sends_everything(bench: Bench) -> None:
    result = bench.train(Personal())
    assert result.personal.names == ()
    assert set(decode_kept(result.update, bench.supports)) == set(bench.supports)


def test_an_update_holds_nothing_of_personal_tensors(bench: Bench) -> None:
    names = personal_names(LAST, bench.workbench.manifest)
    assert names == HEAD
    result = bench.train(Personal(names, own_values(bench, names)))
    assert result.personal.names == HEAD
    sent = decode_tensors(result.update)
    assert {n.partition("#")[0] for n in sent} == set(bench.supports) - set(HEAD)
    bench.check(result)


def test_the_first_time_received_values_begin_and_train_as_they_always_did(bench: Bench) -> None:
    ordinary, result = bench.train(Personal()), bench.train(Personal(HEAD))
    received = {n: bench.state.model.theta[n] for n in HEAD}
    deltas = decode_kept(ordinary.update, bench.supports)
    rest = {n: s for n, s in bench.supports.items() if n not in HEAD}
    for name, kept in decode_kept(result.update, rest).items():
        assert kept.values.tobytes() == deltas[name].values.tobytes(), "what else is trained is the same to the bit"
    for name in HEAD:
        mask = bench.supports[name].dense_mask()
        assert result.personal_before.values[name][mask].tobytes() == received[name][mask].tobytes()
        assert not result.personal_before.values[name][~mask].any()
        moved = result.personal.values[name] - result.personal_before.values[name]
        # The ordinary update travels as fp16: that is how well the two can be compared.
        np.testing.assert_allclose(moved[mask], deltas[name].values, rtol=2e-3, atol=1e-5)
        assert np.abs(moved[mask]).max() > 1e-3


def test_own_values_begin_the_training_and_what_is_trained_takes_their_place(bench: Bench) -> None:
    own = own_values(bench, HEAD)
    result = bench.train(Personal(HEAD, own))
    for name in HEAD:
        mask = bench.supports[name].dense_mask()
        after = result.personal.values[name]
        assert (after.dtype, after.shape) == (np.dtype(np.float32), own[name].shape)
        assert not after[~mask].view(np.uint32).any(), "the layer as it is computed with"
        assert np.mean(after[mask] != own[name][mask]) > 0.5
        assert result.personal_before.values[name].tobytes() == own[name].tobytes()
    ordinary = bench.train(Personal())
    assert ordinary.update != result.update, "the features were trained under another last layer"


def test_the_same_beginning_ends_with_the_same_bits_and_another_with_others(bench: Bench) -> None:
    own = own_values(bench, HEAD)
    one, again = bench.train(Personal(HEAD, own)), bench.train(Personal(HEAD, own))
    assert one.update == again.update
    for name in HEAD:
        assert one.personal.values[name].tobytes() == again.personal.values[name].tobytes()
    advanced = bench.train(one.personal)
    assert advanced.update != one.update


def test_values_off_the_mask_do_not_reach_the_training(bench: Bench) -> None:
    own = own_values(bench, HEAD)
    mask = bench.supports["fc2.weight"].dense_mask()
    other = {**own, "fc2.weight": np.where(mask, own["fc2.weight"], np.float32(1e3))}
    assert bench.train(Personal(HEAD, own)).update == bench.train(Personal(HEAD, other)).update


def test_a_personal_tensor_that_diverges_is_not_taken_over(bench: Bench) -> None:
    hyper = msgspec.structs.replace(bench.assignment.hyper, learning_rate=1e6)
    wild = dataclasses.replace(bench, assignment=msgspec.structs.replace(bench.assignment, hyper=hyper))
    with pytest.raises(LocalWireError, match="diverged"), np.errstate(all="ignore"):
        wild.train(Personal(HEAD))


@pytest.mark.parametrize("engine", available_engines())
def test_running_statistics_may_be_personal(engine: str, tmp_path: Path) -> None:
    bench = _bench(engine, "resnet8", (3, 8, 8), tmp_path)
    names = tuple(n for n in bench.supports if n.endswith(("running_mean", "running_var")))
    result = bench.train(Personal(names))
    assert not any(n in decode_tensors(result.update) for n in names)
    for name in names:
        assert np.any(result.personal.values[name] != result.personal_before.values[name]), name
    bench.check(result)
