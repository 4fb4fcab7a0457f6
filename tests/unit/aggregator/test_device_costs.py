"""What is known of a device's time: points of a fitting profile, and what its rounds took."""

import msgspec
import pytest

from aggregator.core.rating import Capability
from aggregator.core.rating.round_cost import Known, Point, RoundTime, fit
from aggregator.device_costs import Trained, known_of, observations, round_time
from aggregator.profiles.kept import profile_facts
from aggregator.results import DeviceRound, RoundResult
from device_runtime.profile.record import encode_profile
from device_runtime.wire.limits import DURATION_NS_MAX
from device_runtime.wire.measurement import ABSENT, NO_PHASE, Phase, measured
from device_runtime.wire.messages import BlobRef, Offer
from tests import fakes
from tests.profiles import make_case, make_profile

TRAINED = Trained(model="lenet5", input_shape=(1, 8, 8), class_count=10, batch_size=32, epoch_count=3)


def device_round(name, sparsity):
    """A device's record of which only name and sparsity are read."""
    rest = {f.name: None for f in msgspec.structs.fields(DeviceRound)}
    return DeviceRound(**(rest | {"name": name, "sparsity": sparsity}))


def facts_of(*cases, **changed):
    return profile_facts(encode_profile(make_profile(*cases, **changed)), "it")


def hello_of(facts, sample_count=100):
    return msgspec.structs.replace(
        fakes.hello(sample_count=sample_count), profile=BlobRef(sha=facts.sha, size_bytes=1) if facts else None
    )


def test_a_profiles_points_are_its_median_steps_times_the_steps_of_a_round():
    facts = facts_of(make_case(ms=10.0), make_case(sparsity=0.9, ms=4.0))
    # 100 samples in batches of 32 are 4 steps, 3 epochs 12: 120 ms and 48 ms.
    known, why = known_of(hello_of(facts), "portable", TRAINED, facts, ())
    assert known.profiled == (Point(0.0, 0.12), Point(0.9, 0.048))
    assert why == ""


def test_cases_of_another_engine_batch_or_verdict_are_no_points():
    facts = facts_of(
        make_case(ms=10.0),
        make_case(engine="ort_training", sparsity=0.5),
        make_case(sparsity=0.6, batch=16),
        make_case(sparsity=0.7, kind="noisy"),
    )
    known, why = known_of(hello_of(facts), "portable", TRAINED, facts, ())
    assert [p.sparsity for p in known.profiled] == [0.0]
    assert why == ""


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (facts_of(make_case(), emulated="QEMU"), "it was made under an emulator"),
        (facts_of(make_case(kind="throttled")), "its verdict is: throttled"),
        (facts_of(), "its verdict is: no case"),
        (facts_of(make_case(), network="mlp"), "it is of model 'mlp' on [1, 8, 8], 10 classes"),
        (facts_of(make_case(), input_shape=(3, 8, 8)), "it is of model 'lenet5' on [3, 8, 8], 10 classes"),
        (facts_of(make_case("ort_training")), "it has no valid case of engine portable with batches of 32"),
    ],
    ids=["emulated", "throttled", "no case", "another model", "another input", "another engine"],
)
def test_a_profile_that_says_nothing_of_this_run_is_not_used_and_that_is_said(facts, words):
    observed = (RoundTime(0.8, 1.0, 0.0),)
    known, why = known_of(hello_of(facts), "portable", TRAINED, facts, observed)
    assert (known.profiled, known.observed, why) == ((), observed, words)


def test_a_kept_profile_that_the_device_no_longer_names_is_not_used():
    facts, other = facts_of(make_case()), facts_of(make_case(), make_case(sparsity=0.5))
    for hello in (hello_of(None), hello_of(other)):
        known, why = known_of(hello, "portable", TRAINED, facts, ())
        assert (known.profiled, why) == ((), "")


def phase(ms: float) -> Phase:
    return Phase(measured(ms * 1_000_000), ABSENT)


def result(index: int, sparsity: float) -> RoundResult:
    """A committed round of one device."""
    return RoundResult(
        round_index=index, accuracy_dense=None, accuracy_sparse=None, loss_sparse=None, bytes_up=0, bytes_down=0,
        wall_s=1.0, devices=[device_round("pi-1", sparsity)],
    )  # fmt: skip


def offered(index: int, **phases: Phase) -> tuple[int, Offer]:
    """The round and the offer of a device with these times."""
    offer = fakes.offer(fakes.assignment("pi-1", index))
    return index, msgspec.structs.replace(offer, measurement=msgspec.structs.replace(offer.measurement, **phases))


def test_a_round_took_its_transfers_and_its_training():
    full = msgspec.structs.replace(
        fakes.measurement(), download=phase(1), load=phase(20), train=phase(300), serialise=phase(4000)
    )
    assert round_time(full, 0.8, phase(50_000)) == RoundTime(0.8, pytest.approx(4.32), pytest.approx(50.001))
    assert round_time(full, 0.8, NO_PHASE) == RoundTime(0.8, pytest.approx(4.32), pytest.approx(0.001))
    assert round_time(full, 0.8, None) == RoundTime(0.8, pytest.approx(4.32), None)
    assert round_time(msgspec.structs.replace(full, train=NO_PHASE), 0.8, None) is None


def test_rounds_are_observed_at_their_own_sparsity_and_on_the_present_engine():
    offers = [offered(1), offered(2), offered(3)]
    found = observations([result(1, 0.8), result(2, 0.9)], offers, {"pi-1": "fake"})
    assert found == {"pi-1": (RoundTime(0.8, 1e-5, 0.0), RoundTime(0.9, 1e-5, None))}, "round 3 has no result yet"
    assert observations([result(1, 0.8)], offers, {"pi-1": "another"}) == {}


def test_an_upload_counts_for_the_round_whose_update_it_was():
    """A dense upload of 1000 ms is told with the first pruned round, and is not what a pruned update takes."""
    sparsities = {1: 0.0, 2: 0.0, 3: 0.9}
    results = [result(index, sparsity) for index, sparsity in sparsities.items()]
    uploads = {1: NO_PHASE, 2: phase(1000), 3: phase(1002)}
    offers = [offered(i, upload_previous=u, download=phase(2000 * (1 - sparsities[i]))) for i, u in uploads.items()]
    (times,) = observations(results, offers, {"pi-1": "fake"}).values()
    assert [t.transfer_s for t in times] == [pytest.approx(3.0), pytest.approx(3.002), None]
    results.append(result(4, 0.9))
    offers.append(offered(4, upload_previous=phase(100), download=phase(200)))
    (times,) = observations(results, offers, {"pi-1": "fake"}).values()
    assert [t.transfer_s for t in times[2:]] == [pytest.approx(0.3)] * 2, "the next round is taken to be like it"
    cost = fit(Known(observed=times))
    assert cost is not None
    assert cost.at(0.9) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("name", ["download", "load", "train", "serialise", "upload_previous"])
@pytest.mark.parametrize("ns", [-1, DURATION_NS_MAX + 1, 1.7e308, -1.7e308])
def test_a_time_that_no_clock_read_is_none(name, ns):
    """Sums of such times overflow, and what is not a number would end the aggregator or the policy for everyone."""
    _, offer = offered(1, **{name: Phase(measured(ns), ABSENT)})
    _, clean = offered(1, **{name: NO_PHASE})
    engines = {"pi-1": "fake"}
    assert observations([result(1, 0.8)], [(1, offer)], engines) == observations(
        [result(1, 0.8)], [(1, clean)], engines
    )


def test_one_device_that_lies_about_its_times_moves_nobody_but_itself():
    honest = {f"pi-{i}": Known(observed=(RoundTime(0.8, 1.0, 1.0),)) for i in range(2, 6)}
    worst = Phase(measured(DURATION_NS_MAX), ABSENT)
    _, offer = offered(1, download=worst, load=worst, train=worst, serialise=worst, upload_previous=worst)
    observed = observations([result(1, 0.8)], [(1, offer)], {"pi-1": "fake"})["pi-1"]
    chosen = Capability().sparsities(0.8, honest | {"pi-1": Known(observed=observed)}, {})
    assert {d: chosen[d] for d in honest} == dict.fromkeys(honest, 0.8)
    assert 0.8 <= chosen["pi-1"] <= 0.95


class Counted(str):
    """A device's name that counts how often it is compared with another."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("count", [10, 100])
def test_costs_are_gathered_in_time_that_grows_with_the_devices_and_not_with_their_square(count, monkeypatch):
    monkeypatch.setattr(Counted, "compared", 0)
    names = [Counted(f"pi-{number}") for number in range(count)]
    results = [
        msgspec.structs.replace(result(index, 0.8), devices=[device_round(name, 0.8) for name in names])
        for index in range(1, 4)
    ]
    offers = [(index, fakes.offer(fakes.assignment(str(name), index))) for index in range(1, 4) for name in names]
    found = observations(results, offers, dict.fromkeys(names, "fake"))
    assert {len(times) for times in found.values()} == {3}
    assert len(found) == count
    assert Counted.compared <= 20 * count
