"""From readings to a case: rates, energy per step, counters per step and the verdict."""

import pytest

from device_runtime.metering.counters import Count, Counters
from device_runtime.metering.thermal import Thermometer
from device_runtime.profile.instruments import Instruments, energy, per_step
from device_runtime.profile.subject import supports, values
from device_runtime.profile.tally import CaseJob, payload, tally, typical
from device_runtime.profile.values import PhaseSamples, absent, derived, labelled, measured
from device_runtime.wire.cost import masked_dense


@pytest.fixture
def case_of(manifest, plan, roof, make_findings):
    def make(findings=None, sparsity=0.5, emulated="", the_roof=roof):
        job = CaseJob(
            artifact="x",
            sparsity=sparsity,
            threads=2,
            batch=8,
            seed=0,
            plan=plan,
            roof=the_roof,
            cores=4,
            emulated=emulated,
        )
        sent = values(manifest, supports(manifest, sparsity, 0), 0)
        return tally(job, manifest, "ab" * 32, sent, masked_dense, findings or make_findings())

    return make


def test_rates_follow_from_times_and_counts(case_of):
    case = case_of()
    assert case.step.p50 == 1_000_000
    assert case.steps_per_second.value == pytest.approx(1000)
    assert case.samples_per_second.value == pytest.approx(8000)
    assert case.rate.value == pytest.approx(case.flops.executed.value / 1_000_000)
    assert case.share_of_peak.value == pytest.approx(case.rate.value / 100.0)
    assert case.flops.ideal.value < case.flops.dense.value < case.flops.executed.value
    assert case.kept_count == pytest.approx(case.prunable_count / 2, abs=len(case.repeats))
    assert case.verdict.kind == "valid"


def test_transfers_are_absent_in_an_offline_profile(case_of):
    case = case_of()
    assert case.download.source == case.upload.source == "absent"
    assert case.payload.socket.source == "absent"
    assert case.payload.update == derived(900, "B", case.payload.update.note)
    assert payload(1, 1, None).update.source == "absent"


def test_repeats_that_lie_apart_are_noisy(case_of, make_findings, make_repeat):
    repeats = [make_repeat([ns] * 10) for ns in (1_000_000, 1_010_000, 1_060_000)]
    case = case_of(make_findings(repeats))
    assert case.verdict.kind == "noisy"
    assert case.spread.value == pytest.approx(60 / 1010)


def test_events_of_any_repeat_decide(case_of, make_findings, make_repeat):
    repeats = [make_repeat([1000] * 10), make_repeat([1000] * 10, events=["throttled"]), make_repeat([1000] * 10)]
    assert case_of(make_findings(repeats)).verdict.kind == "throttled"


def test_emulated_is_labelled(case_of):
    assert case_of(emulated="QEMU").verdict.kind == "emulated"


def test_an_unknown_peak_gives_no_share(case_of, roof):
    unknown = type(roof)(threads=1, compute=absent("GFLOP/s", "none"), bandwidth=absent("GB/s", "none"))
    assert case_of(the_roof=unknown).share_of_peak.source == "absent"


def test_energy_is_gross_and_net_of_idle(make_repeat):
    repeats = tuple(make_repeat([10**8] * 10, energy=measured(5.0, "J"), wall_ns=10**9) for _ in range(3))
    found = energy(repeats, "ina226", 1.0, 3.0)
    assert found.idle_power.value == 2.0
    assert found.gross_per_step.value == pytest.approx(0.5)
    assert found.net_per_step.value == pytest.approx(0.3)
    assert found.net_per_step.source == "derived"


def test_an_estimate_stays_an_estimate(make_repeat):
    repeats = tuple(make_repeat([10**8] * 10, energy=labelled("estimated", 5.0, "J"), wall_ns=10**9) for _ in range(3))
    found = energy(repeats, "PMIC", 1.0, 1.0)
    assert {found.idle_power.source, found.gross_per_step.source, found.net_per_step.source} == {"estimated"}


def test_a_sensor_that_failed_once_gives_no_energy(make_repeat):
    repeats = (make_repeat([1] * 10, energy=measured(5.0, "J")), make_repeat([1] * 10))
    assert energy(repeats, "why", 1.0, 1.0).gross_per_step == absent("J/step", "why")


def test_without_idle_power_there_is_gross_only(make_repeat):
    repeats = (make_repeat([1] * 10, energy=measured(5.0, "J")),)
    found = energy(repeats, "why", None, 1.0)
    assert found.gross_per_step.value == 0.5
    assert found.net_per_step.source == "absent"


def test_counters_per_step(make_repeat):
    both = [{"cycles": measured(100, "1"), "x": measured(1, "1")}]
    both += [{"cycles": measured(300, "1"), "x": absent("1", "?")}]
    found = per_step(tuple(make_repeat([1] * 10, counters=c) for c in both))
    assert found["cycles"].value == 20.0
    assert found["x"] == absent("1/step", "?")


def test_the_median_of_a_phase():
    assert typical(PhaseSamples(source="measured", wall_ns=(9, 1, 5), cpu_ns=(1, 1, 1))) == 5
    assert typical(PhaseSamples(source="absent", note="why")) is None


class FakeCounters(Counters):
    """Counts that are given."""

    def __init__(self, readings):
        self._readings = iter(readings)
        self._descriptors = []
        self.absent = {"ase_spec": "no such counter"}

    def read(self):
        return next(self._readings)


def test_instruments_label_what_was_counted(tmp_path):
    before = {"instructions": Count(5), "cycles": Count(9), "page_faults": Count(1)}
    after = {"instructions": Count(25, is_scaled=True), "cycles": Count(9), "page_faults": Count(1)}
    tools = Instruments(Thermometer(tmp_path, lambda _: None), None, "no sensor", FakeCounters([before, after]))
    found = tools.end(tools.begin(0.0), (7,))
    assert found.counters["instructions"].source == "derived"
    assert found.counters["instructions"].value == 20
    assert found.counters["cycles"] == absent("1", "the counter was opened and counted nothing")
    assert found.counters["page_faults"].value == 0
    assert found.counters["ase_spec"] == absent("1", "no such counter")
    assert found.counters["context_switches_forced"].source == "measured"
    assert found.energy == absent("J", "no sensor")
    assert found.temperature_end.source == found.frequency_end.source == "absent"
    assert tools.idle_watts(0.0) is None
