"""Profiles for tests: whole records, made of the structs that the profile run fills, with one call."""

from device_runtime.profile import record
from device_runtime.profile.values import Distribution, PhaseSamples, Value, absent, derived, measured

NONE = absent("B", "not given")
NO_PHASE = PhaseSamples(source="absent", note="offline")


def make_case(
    engine: str = "portable",
    sparsity: float = 0.0,
    kind: record.VerdictKind = "valid",
    ms: float = 10.0,
    layers: record.Layers | None = None,
    joules: Value = NONE,
    batch: int = 32,
) -> record.Case:
    """A case whose every step took `ms` milliseconds."""
    ns = int(ms * 1e6)
    one = measured(1, "ns")
    repeat = record.Repeat(
        step_ns=(ns,) * 10, wall_ns=10 * ns, cpu_ns=10 * ns, cooled_seconds=0.0,
        temperature_start=NONE, temperature_end=NONE, frequency_start=NONE, frequency_end=NONE,
        events=(), others=NONE, stolen=NONE, energy=NONE, counters={},
    )  # fmt: skip
    return record.Case(
        engine=engine,
        engine_version="1",
        artifact_sha="ab",
        sparsity=sparsity,
        kept_count=10,
        prunable_count=100,
        threads=1,
        batch=batch,
        cold=record.Cold(import_engine=one, open=one, load=one, first_step=one),
        warm_up=record.WarmUp(steps=10, seconds=1.0, is_stable=True),
        download=NO_PHASE,
        load=NO_PHASE,
        serialise=NO_PHASE,
        upload=NO_PHASE,
        step=Distribution(count=30, min=ns, p50=ns, p90=ns + 1000, p99=ns + 9000, mad=10),
        repeats=(repeat,) * 3,
        spread=derived(0.01, "1"),
        steps_per_second=derived(1e9 / ns, "1/s"),
        samples_per_second=derived(32e9 / ns, "1/s"),
        flops=record.StepFlops(
            dense=derived(2_000_000, "FLOP"), ideal=derived(200_000, "FLOP"), executed=derived(2_100_000, "FLOP")
        ),
        rate=derived(2_100_000 / ns, "GFLOP/s"),
        share_of_peak=derived(0.2, "1"),
        memory=record.Memory(
            pss=measured(60_000_000, "B"), pss_anonymous=NONE, swap_pss=NONE, rss_peak=NONE,
            swap_used_before=NONE, swap_used_after=NONE,
        ),
        energy=record.Energy(sensor="none", idle_power=NONE, gross_per_step=joules, net_per_step=joules),
        counters_per_step={},
        payload=record.Payload(params=NONE, supports=NONE, update=derived(9000, "B"), socket=NONE),
        layers=layers,
        layers_note="engine gives no profile by node",
        soak=None,
        verdict=record.Verdict(kind=kind, reasons=() if kind == "valid" else (f"because of {kind}",)),
    )  # fmt: skip


def make_profile(
    *cases: record.Case,
    board: str = "rpi5",
    certainty: str = "board",
    model: str = "Raspberry Pi 5",
    emulated: str = "",
    network: str = "lenet5",
    input_shape: tuple[int, ...] = (1, 8, 8),
) -> record.Profile:
    """A profile of these cases on a board."""
    return record.Profile(
        date="2026-01-01T00:00:00+00:00",
        machine=record.Machine(
            board=board, board_certainty=certainty, model=model, architecture="aarch64", kernel="6.12",
            page_size=16384, cores=4, cores_usable=4, emulated=emulated, hypervisor="", versions={"numpy": "2"},
        ),
        preflight=record.Preflight(
            governor="", load_1min=NONE, temperature=NONE, frequency=NONE, events=(), swap_used=NONE,
            memory_available=NONE, doubts=(),
        ),
        plan=record.Plan(),
        subject=record.Subject(
            model=network, input_shape=input_shape, class_count=10, optimizer="sgd", seed=0, data="d", masks="m"
        ),
        roof=record.Roof(threads=1, compute=measured(38.0, "GFLOP/s"), bandwidth=measured(9.0, "GB/s")),
        cases=cases,
    )  # fmt: skip
