"""An artifact to profile, a plan that takes no time, and a profile built by hand."""

import pytest

from device_runtime.profile import record
from device_runtime.profile.record import Plan
from device_runtime.profile.values import PhaseSamples, absent, measured
from device_runtime.wire.manifest import MANIFEST_FILE, decode_manifest
from export.artifacts.of_models import write_model_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory):
    """A portable artifact of a small multilayer perceptron."""
    folder = tmp_path_factory.mktemp("artifact") / "portable"
    write_model_artifact("mlp", "portable", folder, input_shape="1,8,8", class_count=10)
    return folder


@pytest.fixture(scope="session")
def manifest(artifact):
    return decode_manifest((artifact / MANIFEST_FILE).read_bytes())


@pytest.fixture
def plan():
    return Plan(
        repeats=3,
        seconds=0.02,
        steps_min=5,
        warm_up_steps_min=4,
        warm_up_seconds=0.02,
        warm_up_seconds_max=0.2,
        cool_down_seconds_max=0.0,
        idle_seconds=0.0,
        phase_repeats=2,
        is_quick=True,
    )


@pytest.fixture
def roof():
    return record.Roof(threads=1, compute=measured(100.0, "GFLOP/s"), bandwidth=measured(10.0, "GB/s"))


@pytest.fixture
def make_repeat():
    def make(step_ns, events=(), energy=None, counters=None, wall_ns=None, others=None, stolen=None):
        return record.Repeat(
            step_ns=tuple(step_ns),
            wall_ns=wall_ns or sum(step_ns),
            cpu_ns=sum(step_ns),
            cooled_seconds=0.0,
            temperature_start=absent("°C", "none"),
            temperature_end=absent("°C", "none"),
            frequency_start=absent("Hz", "none"),
            frequency_end=absent("Hz", "none"),
            events=tuple(events),
            others=measured(others, "cores", reason="no /proc/stat"),
            stolen=measured(stolen, "cores", reason="no /proc/stat"),
            energy=energy or absent("J", "no sensor"),
            counters=counters or {"instructions": absent("1", "no counter")},
        )

    return make


@pytest.fixture
def make_findings(make_repeat):
    from device_runtime.profile.tally import Findings, payload

    def make(repeats=None, *, is_stable=True, is_finite=True, idle=(None, None), sensor="no sensor"):
        ns = measured(1000, "ns")
        none = absent("B", "none")
        return Findings(
            engine_version="1.0",
            cold=record.Cold(import_engine=ns, open=ns, load=ns, first_step=ns),
            warm_up=record.WarmUp(steps=10, seconds=0.1, is_stable=is_stable),
            load=PhaseSamples(source="measured", wall_ns=(5, 7, 6), cpu_ns=(5, 7, 6)),
            serialise=PhaseSamples(source="measured", wall_ns=(9, 8, 7), cpu_ns=(9, 8, 7)),
            repeats=tuple(repeats or [make_repeat([1_000_000] * 10) for _ in range(3)]),
            idle_watts=idle,
            sensor=sensor,
            memory=record.Memory(
                pss=measured(50_000_000, "B"),
                pss_anonymous=none,
                swap_pss=none,
                rss_peak=none,
                swap_used_before=none,
                swap_used_after=none,
            ),
            payload=payload(1000, 100, 900),
            is_finite=is_finite,
        )

    return make


@pytest.fixture
def make_profile(manifest, roof, plan, make_findings):
    """A profile with one case per sparsity, of an emulated machine if wanted."""
    from device_runtime.profile.subject import supports, values
    from device_runtime.profile.tally import CaseJob, tally
    from device_runtime.wire.cost import masked_dense

    def make(sparsities=(0.0, 0.9), emulated="", board="rpi5", findings=None):
        cases = []
        for sparsity in sparsities:
            job = CaseJob(
                artifact="x",
                sparsity=sparsity,
                threads=1,
                batch=8,
                seed=0,
                plan=plan,
                roof=roof,
                cores=4,
                emulated=emulated,
            )
            sent = values(manifest, supports(manifest, sparsity, 0), 0)
            cases.append(tally(job, manifest, "ab" * 32, sent, masked_dense, findings or make_findings()))
        return record.Profile(
            date="2026-01-01T00:00:00+00:00",
            machine=record.Machine(
                board=board,
                board_certainty="board",
                model="Raspberry Pi 5 Model B",
                architecture="aarch64",
                kernel="6.12",
                page_size=16384,
                cores=4,
                cores_usable=4,
                emulated=emulated,
                hypervisor="",
                versions={"python": "3.13"},
            ),
            preflight=record.Preflight(
                governor="ondemand",
                load_1min=measured(0.0, "1"),
                temperature=measured(45.0, "°C"),
                frequency=absent("Hz", "no cpufreq"),
                events=(),
                swap_used=measured(0, "B"),
                memory_available=measured(1, "B"),
                doubts=("the governor is 'ondemand'",),
            ),
            plan=plan,
            subject=record.Subject(
                model="mlp", input_shape=(1, 8, 8), class_count=10, optimizer="sgd", seed=0, data="drawn", masks="drawn"
            ),
            roof=roof,
            cases=tuple(cases),
        )

    return make
