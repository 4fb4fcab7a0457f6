"""A whole run with cases that are given: order, progress, the roofline's fall-back and the look at the machine."""

import msgspec
import pytest

from device_runtime.metering.thermal import Throttling
from device_runtime.profile.preflight import doubts, machine, preflight
from device_runtime.profile.record import Machine, Plan
from device_runtime.profile.run import Request, datasheet_roof, run_profile
from device_runtime.profile.subject import supports, values
from device_runtime.profile.tally import CaseJob, tally
from device_runtime.profile.worker import RoofJob
from device_runtime.wire.cost import masked_dense
from device_runtime.wire.errors import EngineError, UsageError
from firmware_profiles.catalogue import load_board


@pytest.fixture
def carry(manifest, roof, make_findings):
    jobs = []

    def carry(job, told):
        jobs.append(job)
        if isinstance(job, RoofJob):
            told("roofline", 1.0)
            return roof
        told("repeat 2 of 3", 0.5)
        sent = values(manifest, supports(manifest, job.sparsity, 0), 0)
        return tally(job, manifest, "", sent, masked_dense, make_findings())

    carry.jobs = jobs
    return carry


@pytest.fixture
def request_of(artifact, plan):
    def make(**more):
        given = {"artifacts": [artifact], "sparsities": (0.0, 0.9), "threads": 1, "batch": 8, "seed": 0, "plan": plan}
        return Request(**given | more)

    return make


def test_every_sparsity_is_a_case_after_the_roofline(request_of, carry, roof):
    shares = []
    profile = run_profile(request_of(), lambda _doing, share: shares.append(share), carry)
    assert [type(j) for j in carry.jobs] == [RoofJob, CaseJob, CaseJob]
    assert [c.sparsity for c in profile.cases] == [0.0, 0.9]
    assert profile.roof == roof
    assert profile.subject.model == "mlp"
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(1 / 3)
    assert shares[-1] < 1.0


def test_only_the_first_case_is_soaked(request_of, carry, plan):
    run_profile(request_of(plan=Plan(soak_minutes=1.0)), lambda *_: None, carry)
    assert [j.has_soak for j in carry.jobs[1:]] == [True, False]


def test_no_threads_is_one_per_core(request_of, carry):
    run_profile(request_of(threads=0), lambda *_: None, carry)
    assert carry.jobs[0].threads >= 1


def test_a_bad_sparsity_is_refused_before_anything_runs(request_of, carry):
    with pytest.raises(UsageError, match="out of range"):
        run_profile(request_of(sparsities=(0.0, 1.0)), lambda *_: None, carry)
    assert carry.jobs == []


def test_a_case_that_fails_leaves_the_others(request_of, carry):
    def one_dies(job, told):
        if isinstance(job, CaseJob) and job.sparsity == 0.0:
            raise EngineError("it ended early, by signal 9")
        return carry(job, told)

    profile = run_profile(request_of(), lambda *_: None, one_dies)
    assert [c.sparsity for c in profile.cases] == [0.9]
    assert profile.failures == ("portable at sparsity 0: it ended early, by signal 9",)


def test_a_run_without_a_case_is_an_error(request_of, carry):
    def all_die(job, told):
        if isinstance(job, CaseJob):
            raise EngineError("no memory")
        return carry(job, told)

    with pytest.raises(EngineError, match="portable at sparsity 0: no memory"):
        run_profile(request_of(), lambda *_: None, all_die)


def test_a_roof_that_cannot_be_measured_comes_from_the_board_file(request_of, carry):
    def failing(job, told):
        if isinstance(job, RoofJob):
            raise EngineError("it died")
        return carry(job, told)

    profile = run_profile(request_of(), lambda *_: None, failing)
    assert profile.roof.compute.source in ("datasheet", "absent")
    assert "it died" in profile.roof.compute.note


def test_datasheet_numbers_are_labelled_so():
    roof = datasheet_roof(load_board("rpi5"), 4, "why")
    assert roof.compute.source == roof.bandwidth.source == "datasheet"
    assert roof.compute.value > datasheet_roof(load_board("rpi5"), 1, "why").compute.value
    assert "why" in roof.compute.note


def test_without_a_board_file_there_is_no_roof():
    assert datasheet_roof(None, 1, "why").compute.source == "absent"


def test_a_captured_pi_is_recognised(tmp_path):
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    record, found = machine(tmp_path)
    assert record.board == "rpi5"
    assert record.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.board.power_sensor.fit_slope is not None


def test_a_bare_tree_leaves_everything_absent(tmp_path):
    record, _ = machine(tmp_path)
    state = preflight(record, Plan(), 1, tmp_path)
    readings = (state.load_1min, state.temperature, state.frequency, state.swap_used, state.memory_available)
    assert {r.source for r in readings} == {"absent"}
    assert state.governor == ""


def test_the_fit_of_a_board_reaches_the_case(request_of, carry, tmp_path, monkeypatch):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    found = machine(tmp_path)
    monkeypatch.setattr("device_runtime.profile.run.machine", lambda: found)
    run_profile(request_of(), lambda *_: None, carry)
    sensor = load_board("rpi5").power_sensor
    assert carry.jobs[1].fit == (sensor.fit_slope.value, sensor.fit_offset.value)


RECORD = Machine(
    board="rpi5",
    board_certainty="board",
    model="",
    architecture="aarch64",
    kernel="",
    page_size=4096,
    cores=4,
    cores_usable=4,
    emulated="",
    hypervisor="",
    versions={},
)


def test_a_quiet_board_raises_no_doubt():
    assert doubts(RECORD, Plan(), 4, 0.1, 45.0, "performance", 0, Throttling(bits=0)) == []
    assert doubts(RECORD, Plan(), 4, None, None, "", None, Throttling()) == []


def test_every_doubt_says_what_to_do():
    loud = msgspec.structs.replace(RECORD, emulated="QEMU", hypervisor="x")
    quick = Plan(is_quick=True)
    found = doubts(loud, quick, 8, 3.0, 60.0, "ondemand", 5_000_000, Throttling(bits=0x50001))
    for word in ("emulated", "virtual", "load", "warm", "governor", "swapped", "reports", "reboot", "threads", "quick"):
        assert any(word in sentence for sentence in found), word
