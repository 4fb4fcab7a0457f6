"""What is known of a device's time: points of a fitting profile, and what its rounds took."""

import msgspec
import pytest

from aggregator.core.rates import Point, RoundTime
from aggregator.device_costs import Trained, known_of, observations, round_time
from aggregator.profiles import profile_facts
from aggregator.results import DeviceRound, RoundResult
from device_runtime.profile.record import encode_profile
from device_runtime.wire.measurement import ABSENT, Phase, measured
from device_runtime.wire.messages import BlobRef
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


def test_a_round_took_its_transfers_and_its_training():
    def phase(ms: int) -> Phase:
        return Phase(measured(ms * 1_000_000), ABSENT)

    full = msgspec.structs.replace(
        fakes.measurement(), download=phase(1), load=phase(20), train=phase(300), serialise=phase(4000),
        upload_previous=phase(50_000),
    )  # fmt: skip
    nothing = Phase(ABSENT, ABSENT)
    assert round_time(full, 0.8) == RoundTime(0.8, pytest.approx(4.32), pytest.approx(50.001))
    first = msgspec.structs.replace(full, upload_previous=nothing)
    assert round_time(first, 0.8) == RoundTime(0.8, pytest.approx(4.32), pytest.approx(0.001))
    assert round_time(msgspec.structs.replace(full, train=nothing), 0.8) is None


def test_rounds_are_observed_at_their_own_sparsity_and_on_the_present_engine():
    def result(index: int, sparsity: float) -> RoundResult:
        return RoundResult(
            round_index=index, accuracy_dense=None, accuracy_sparse=None, loss_sparse=None, bytes_up=0, bytes_down=0,
            wall_s=1.0, devices=[device_round("pi-1", sparsity)],
        )  # fmt: skip

    offers = [(index, fakes.offer(fakes.assignment("pi-1", index))) for index in (1, 2, 3)]
    found = observations([result(1, 0.8), result(2, 0.9)], offers, {"pi-1": "fake"})
    assert found == {"pi-1": (RoundTime(0.8, 1e-5, 0.0), RoundTime(0.9, 1e-5, 0.0))}, "round 3 has no result yet"
    assert observations([result(1, 0.8)], offers, {"pi-1": "another"}) == {}
