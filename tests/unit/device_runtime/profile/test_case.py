"""A whole case with a real engine, in this process and in one of its own."""

import gc
import sys
from collections import Counter

import msgspec
import pytest

from device_runtime.profile.case import run_case, slowdown
from device_runtime.profile.record import Case, Roof, SoakMinute
from device_runtime.profile.tally import CaseJob
from device_runtime.profile.values import absent, measured
from device_runtime.profile.worker import Line, RoofJob, in_own_process, main
from device_runtime.training import Workbench
from device_runtime.wire.errors import EngineError


@pytest.fixture
def job(artifact, plan, roof):
    return CaseJob(artifact=str(artifact), sparsity=0.9, threads=1, batch=8, seed=0, plan=plan, roof=roof, cores=2)


def test_a_case_measures_every_phase(job, plan):
    told = []
    case = run_case(job, lambda doing, share: told.append((doing, share)))
    assert case.engine == "portable"
    assert len(case.repeats) == plan.repeats
    assert all(len(r.step_ns) >= plan.steps_min for r in case.repeats)
    assert case.step.count == sum(len(r.step_ns) for r in case.repeats)
    assert len(case.load.wall_ns) == len(case.serialise.wall_ns) == plan.phase_repeats
    assert case.cold.first_step.source == case.cold.open.source == "measured"
    assert case.layers is not None
    assert case.soak is None
    assert case.payload.update.value < case.payload.params.value * 2
    assert {doing for doing, _ in told} >= {"opening the artifact", "warm-up", "repeat 1 of 3", "layers"}
    assert all(0.0 <= share <= 1.0 for _, share in told)
    assert gc.isenabled()


def test_what_is_timed_is_the_workbench_of_a_device(job, plan, monkeypatch):
    called = Counter()
    real = {name: getattr(Workbench, name) for name in ("load", "step", "serialise")}
    for name in real:

        def counting(self, *args, name=name):
            called[name] += 1
            return real[name](self, *args)

        monkeypatch.setattr(Workbench, name, counting)
    case = run_case(job, lambda *_: None)
    assert called["step"] >= 1 + case.warm_up.steps + case.step.count
    assert called["load"] >= 1 + plan.phase_repeats
    assert called["serialise"] == plan.phase_repeats + 1


def test_an_emulated_case_says_so(job):
    case = run_case(msgspec.structs.replace(job, emulated="QEMU"), lambda *_: None)
    assert case.verdict.kind == "emulated"


def test_a_soak_counts_by_the_minute(job, plan):
    soaking = msgspec.structs.replace(plan, soak_minutes=0.02)
    case = run_case(msgspec.structs.replace(job, plan=soaking, has_soak=True), lambda *_: None)
    assert len(case.soak.minutes) == 1
    assert case.soak.minutes[0].step_count > 0
    assert case.soak.slowdown.source == "absent"


def test_slowdown_is_the_last_minute_against_the_first():
    def minute(count, seconds=60.0):
        none = absent("°C", "none")
        return SoakMinute(
            step_count=count, seconds=seconds, step_p50=measured(1, "ns"), temperature=none, frequency=none, events=()
        )

    assert slowdown([minute(100), minute(95), minute(40, 30.0)]).value == pytest.approx(-0.2)


def test_a_process_of_its_own_gives_the_case_and_its_progress(job):
    told = []
    found = in_own_process(job, lambda doing, _: told.append(doing))
    assert isinstance(found, Case)
    assert found.sparsity == 0.9
    assert found.memory.rss_peak.source == "measured"
    assert "repeat 3 of 3" in told


@pytest.mark.parametrize("content", ["", "#!/bin/sh\nexit 127\n"], ids=["refused", "as under QEMU"])
def test_where_no_process_can_be_started_this_one_does_it_and_says_so(job, tmp_path, monkeypatch, content):
    program = tmp_path / "python"
    program.write_text(content)
    program.chmod(0o755 if content else 0o644)
    monkeypatch.setattr(sys, "executable", str(program))
    assert "not quite cold" in in_own_process(job, lambda *_: None).cold.open.note


def test_an_error_in_the_process_is_told(job, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(EngineError, match="manifest is malformed"):
        in_own_process(msgspec.structs.replace(job, artifact=str(tmp_path)), lambda *_: None)


def test_a_roof_is_a_job_too():
    lines = []
    assert main(lines.append, RoofJob(threads=1, seconds=0.01)) == 0
    assert isinstance(msgspec.json.decode(lines[-1], type=Line).roof, Roof)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9 (SIGKILL): memory may be short"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4 (SIGILL)"),
        ("raise RuntimeError('so it went')", "so it went"),
    ],
)
def test_how_a_process_died_is_told(job, tmp_path, monkeypatch, program, words):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EngineError) as caught:
        in_own_process(job, lambda *_: None)
    assert words in str(caught.value)
    assert "ended early" in str(caught.value)
