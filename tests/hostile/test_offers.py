"""An offer may keep tensors back, but only known ones, never all, and never more or less than its update lacks."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.core.layers import Erk
from aggregator.core.layers.counts import keep_counts
from aggregator.core.masks import supports_of
from aggregator.core.method import Present, RunState
from aggregator.core.pruning import shapes_of
from aggregator.core.residuals import Keep
from aggregator.core.topologies import Dynamic
from aggregator.federation import Federation
from aggregator.settings import ModelSection, RunSection, Settings
from aggregator.state import decode_state, encode_state
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.messages import Assignment, Offer
from device_runtime.wire.submodel import encode_kept
from device_runtime.wire.support import Kept, sha256_hex
from tests import fakes

HEAD = ("fc3.bias", "fc3.weight")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A small mlp, 80 % pruned, before round 1."""
    folder = tmp_path_factory.mktemp("run")
    settings = Settings(
        run=RunSection(folder=str(folder)), input=InputSpec(shape=(1, 4, 4)), model=ModelSection(classes=3)
    )
    return Federation(settings, folder)


@pytest.fixture(scope="module")
def state(federation: Federation) -> RunState:
    """The state that every update here answers."""
    return federation.start()


def assigned(federation: Federation, state: RunState, *devices: str) -> dict[str, Assignment]:
    """What these devices were assigned in round 1."""
    engines = {device: ["portable"] for device in devices}
    return {
        a.device: a for a in federation.assign(state, ("run", 1, 0), engines, dict.fromkeys(devices, Present(20)))[0]
    }


def made(
    federation: Federation, state: RunState, lacks: tuple[str, ...], says: tuple[str, ...], device: str = "pi-1"
) -> tuple[Offer, bytes]:
    """An update of ones that lacks tensors, and an offer that says so, or says otherwise."""
    supports = {
        n: s for n, s in supports_of(federation.model.facts.shapes, state.model.masks).items() if n not in lacks
    }
    ones = {n: Kept(np.full(s.count, 1.0, dtype=np.float32), s) for n, s in supports.items()}
    data = encode_kept(ones, lambda _: "fp16", lambda n: Draws(0, "test", n))
    offer = fakes.offer(fakes.assignment(device), data, kept_back=says)
    return msgspec.structs.replace(offer, update_sha=federation.blobs.put(data)), data


@pytest.mark.parametrize("names", [(), HEAD, ("fc1.weight",), ("fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight")])
def test_an_update_that_lacks_what_its_offer_names_is_taken(federation, state, names):
    offer, data = made(federation, state, names, names)
    federation.submodels.check(assigned(federation, state, "pi-1")["pi-1"], offer, data)


@pytest.mark.parametrize(
    ("lacks", "says", "why"),
    [
        (HEAD, (), "tensor 'fc3.* is missing"),
        (HEAD, HEAD[:1], "tensor 'fc3.weight' is missing"),
        ((), HEAD, "unknown tensor 'fc3.bias'"),
        (HEAD[:1], HEAD, "unknown tensor 'fc3.weight'"),
        (HEAD, (*HEAD, "fc4.weight"), "no parameter 'fc4.weight'"),
        (HEAD, (*HEAD, HEAD[0]), "named twice"),
        (HEAD, ("\x00" * 200,), "no parameter"),
    ],
)
def test_an_offer_and_an_update_that_disagree_are_refused(federation, state, lacks, says, why):
    offer, data = made(federation, state, lacks, says)
    with pytest.raises(RemoteWireError, match=why):
        federation.submodels.check(assigned(federation, state, "pi-1")["pi-1"], offer, data)


def test_an_update_of_nothing_is_refused(federation, state):
    every = tuple(supports_of(federation.model.facts.shapes, state.model.masks))
    offer, data = made(federation, state, every, every)
    with pytest.raises(RemoteWireError, match="no weight or bias would be left"):
        federation.submodels.check(assigned(federation, state, "pi-1")["pi-1"], offer, data)


def test_an_update_that_keeps_tensors_back_must_still_have_the_masks_of_its_own_assignment(federation, state):
    rated = msgspec.structs.replace(federation.settings, rates=fakes.Given({"pi-2": 0.95}))
    federation = Federation(rated, Path(rated.run.folder))
    own = assigned(federation, state, "pi-1", "pi-2")
    offer, data = made(federation, state, HEAD, HEAD)
    federation.submodels.check(own["pi-1"], offer, data)
    with pytest.raises(RemoteWireError, match="values were expected"):
        federation.submodels.check(own["pi-2"], offer, data)
    narrow = {n: s for n, s in federation.submodels.supports_of(own["pi-2"]).items() if n not in HEAD}
    ones = {n: Kept(np.full(s.count, 1.0, dtype=np.float32), s) for n, s in narrow.items()}
    fitting = encode_kept(ones, lambda _: "fp16", lambda n: Draws(0, "test", n))
    federation.submodels.check(own["pi-2"], offer, fitting)
    with pytest.raises(RemoteWireError, match=r"tensor 'fc3.* is missing"):
        federation.submodels.check(own["pi-2"], msgspec.structs.replace(offer, kept_back=()), fitting)


def test_a_layer_that_one_device_keeps_moves_by_the_others(federation, state):
    offers = {"pi-1": made(federation, state, HEAD, HEAD)[0], "pi-2": made(federation, state, (), (), "pi-2")[0]}
    after = federation.close(state, 1, {}, offers, assigned(federation, state, *offers))
    for name, before in state.model.theta.items():
        kept = supports_of(federation.model.facts.shapes, state.model.masks)[name].dense_mask()
        np.testing.assert_allclose(after.state.model.theta[name][kept], before[kept] + 1.0, rtol=1e-6)


def test_a_layer_that_nobody_sends_keeps_its_values_and_its_mask(tmp_path):
    settings = Settings(
        run=RunSection(folder=str(tmp_path)), input=InputSpec(shape=(1, 4, 4)), model=ModelSection(classes=3)
    )
    settings = msgspec.structs.replace(
        settings,
        topology=Dynamic(every_rounds=1, prune_share=0.5),
        residual=Keep(),
    )
    federation = Federation(settings, tmp_path)
    state = federation.start()
    after = federation.close(
        state, 1, {}, {"pi-1": made(federation, state, HEAD, HEAD)[0]}, assigned(federation, state, "pi-1")
    ).state.model
    for name in HEAD:
        assert after.theta[name].tobytes() == state.model.theta[name].tobytes()
    assert after.masks["fc3.weight"].tobytes() == state.model.masks["fc3.weight"].tobytes()
    assert not after.trained["fc3.weight"].any()
    assert after.masks["fc1.weight"].tobytes() != state.model.masks["fc1.weight"].tobytes(), "the others move"
    counts = keep_counts(shapes_of(state.model.masks), settings.pruning.sparsity, Erk())
    assert {n: int(m.sum()) for n, m in after.masks.items()} == dict(counts)


def test_a_round_closes_alike_from_a_state_and_offers_that_were_on_disk(federation, state):
    offer, _ = made(federation, state, HEAD, HEAD)
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(offer), type=Offer)
    assert read.kept_back == HEAD
    assignments = assigned(federation, state, "pi-1")
    one = federation.close(state, 1, {}, {"pi-1": offer}, assignments)
    again = federation.close(decode_state(encode_state(state)), 1, {}, {"pi-1": read}, assignments)
    assert sha256_hex(encode_state(again.state)) == sha256_hex(encode_state(one.state))
