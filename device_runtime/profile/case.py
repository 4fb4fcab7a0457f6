"""One case, one engine at one sparsity, in a process of its own: cold start, warm-up, repeats, phases, layers, soak."""

import functools
import gc
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from device_runtime.data import Samples
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.engines.registry import engine_kind
from device_runtime.metering.counters import Counters
from device_runtime.metering.energy import Fit, find_meter
from device_runtime.metering.memory import memory_use
from device_runtime.metering.thermal import Thermometer, events_between
from device_runtime.profile import subject
from device_runtime.profile.instruments import Instruments, memory
from device_runtime.profile.layers import layers_of, run_traced
from device_runtime.profile.methodology import Times, cool_down, distribution, repeat, warm_up
from device_runtime.profile.phase_samples import sample
from device_runtime.profile.record import Case, Cold, Layers, Repeat, Soak, SoakMinute
from device_runtime.profile.tally import CaseJob, Findings, payload, tally
from device_runtime.profile.values import Value, absent, derived, measured
from device_runtime.training import Workbench
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, decode_manifest

Progress = Callable[[str, float], None]  # what is done, and the share of it that is done
TIMES = Times(time.perf_counter_ns, time.sleep)
_LAYER_SECONDS_MAX = 10.0
_FRESH, _SHARED = "in a fresh process", "in the process of the whole run: not quite cold"


def run_case(job: CaseJob, progress: Progress) -> Case:
    """Run it. Raises EngineError where the engine cannot open or run the artifact."""
    with Counters() as counters:  # before the engine's threads exist, so that they inherit them
        meter, note = find_meter(fit=Fit(*job.fit) if job.fit else None)
        return _Run(job, progress, Instruments(Thermometer(), meter, note, counters)).case()


class _Run:
    """The state of one case."""

    def __init__(self, job: CaseJob, progress: Progress, instruments: Instruments) -> None:
        self._job, self._progress, self._instruments = job, progress, instruments
        self._memory_before = memory_use()
        self._how_cold = _FRESH if job.is_fresh else _SHARED
        raw = (Path(job.artifact) / MANIFEST_FILE).read_bytes()
        self._artifact_sha = hashlib.sha256(raw).hexdigest()
        self.manifest: Manifest = decode_manifest(raw)
        self._kind = engine_kind(self.manifest.engine)
        chosen = subject.supports(self.manifest, job.sparsity, job.seed)
        self._values = subject.values(self.manifest, chosen, job.seed)
        self._kept = subject.kept_counts(self.manifest, chosen)
        self._sent = subject.sent(self._values, self._artifact_sha, job.batch, job.seed)
        self._samples = subject.samples(self.manifest, job.batch, job.seed)
        self._loss = 0.0

    def case(self) -> Case:
        """Everything in order: cold start, load, warm-up, repeats, serialise, memory; then layers and soak."""
        plan, sent = self._job.plan, self._sent
        at_start = self._instruments.temperature().value
        cold, bench = self._open()
        loaded, batches = bench.load(sent.params, sent.supports), list(bench.batches(sent.assignment, epoch=0))
        step = self._stepper(bench, batches)
        cold = msgspec.structs.replace(cold, first_step=measured(_timed(step), "ns", self._how_cold))
        load = sample(lambda: bench.load(sent.params, sent.supports), plan.phase_repeats)
        self._progress("warm-up", 0.0)
        with _no_garbage_collection():
            warm = warm_up(step, plan, TIMES, lambda share: self._progress("warm-up", share))
            idle_before = self._instruments.idle_watts(plan.idle_seconds)
            repeats = self._repeats(step, at_start)
            idle = (idle_before, self._instruments.idle_watts(plan.idle_seconds))
        serialise = sample(lambda: bench.serialise(sent.assignment, loaded), plan.phase_repeats)
        update = len(bench.serialise(sent.assignment, loaded)[0]) if serialise.source == "measured" else None
        findings = Findings(
            engine_version=bench.engine.version,
            cold=cold,
            warm_up=warm,
            load=load,
            serialise=serialise,
            repeats=repeats,
            idle_watts=idle,
            sensor=self._instruments.meter_note,
            memory=memory(self._memory_before),
            payload=payload(len(sent.params), len(sent.supports), update),
            is_finite=math.isfinite(self._loss),
        )
        soak = self._soak(step) if self._job.has_soak else None
        case = tally(self._job, self.manifest, self._artifact_sha, self._values, self._kind.kernel_cost, findings)
        layers, note = self._layers(bench, batches, case.step.p50)
        return msgspec.structs.replace(case, layers=layers, layers_note=note, soak=soak)

    def _stepper(self, bench: Workbench, batches: Sequence[Samples]) -> Callable[[], None]:
        """A function that takes one step, with the batches in turn."""
        turn, rate = itertools.cycle(batches), self._sent.assignment.hyper.learning_rate

        def step() -> None:
            self._loss = bench.step(next(turn), rate)

        return step

    def _open(self) -> tuple[Cold, Workbench]:
        job = self._job
        self._progress("opening the artifact", 0.0)
        start = time.perf_counter_ns()
        import_onnxruntime()
        engine = self._kind.load_engine()
        imported = time.perf_counter_ns()
        bench = Workbench(engine, Path(job.artifact), self._samples, threads=job.threads, seed=job.seed)
        opened = time.perf_counter_ns()
        load_ns = _timed(lambda: bench.load(self._sent.params, self._sent.supports))
        cold = Cold(
            import_engine=measured(imported - start, "ns", self._how_cold),
            open=measured(opened - imported, "ns", self._how_cold),
            load=measured(load_ns, "ns", self._how_cold),
            first_step=absent("ns", "not yet taken"),
        )
        return cold, bench

    def _repeats(self, step: Callable[[], None], at_start: float | None) -> tuple[Repeat, ...]:
        plan, tools = self._job.plan, self._instruments
        found = []
        for index in range(plan.repeats):
            name = f"repeat {index + 1} of {plan.repeats}"
            self._progress(name, 0.0)
            cooled = cool_down(tools.thermometer.temperature_c, at_start, plan, TIMES)
            before = tools.begin(cooled)
            samples = repeat(step, plan, TIMES, functools.partial(self._progress, name))
            found.append(tools.end(before, samples))
        return tuple(found)

    def _layers(self, bench: Workbench, batches: Sequence[Samples], timed_p50_ns: int) -> tuple[Layers | None, str]:
        job, kind = self._job, self._kind
        if not kind.tracer:
            return None, f"engine {kind.name!r} gives no trace by node"
        self._progress("layers", 0.0)
        traced = run_traced(
            bench,
            kind.load_tracer(),
            Path(job.artifact),
            self._sent,
            batches,
            seed=job.seed,
            seconds=min(_LAYER_SECONDS_MAX, job.plan.seconds),
            progress=lambda share: self._progress("layers", share),
        )
        found = layers_of(
            traced, self.manifest, self._kept, kind.kernel_cost,
            batch=job.batch, timed_p50_ns=timed_p50_ns, roof=job.roof,
        )  # fmt: skip
        return found, "from a short run of its own, with onnxruntime's trace of every node"

    def _soak(self, step: Callable[[], None]) -> Soak:
        total = self._job.plan.soak_minutes
        minutes: list[SoakMinute] = []
        while (left := total - len(minutes)) > 0.01:
            index = len(minutes)
            self._progress(f"soak, minute {index + 1}", index / total)
            minutes.append(self._soak_minute(step, 60.0 * min(1.0, left)))
        return Soak(minutes=tuple(minutes), slowdown=slowdown(minutes))

    def _soak_minute(self, step: Callable[[], None], seconds: float) -> SoakMinute:
        tools = self._instruments
        before = tools.thermometer.throttling()
        begin = time.perf_counter()
        one = msgspec.structs.replace(self._job.plan, seconds=seconds, steps_min=1)
        samples = repeat(step, one, TIMES, lambda _: None)
        return SoakMinute(
            step_count=len(samples),
            seconds=time.perf_counter() - begin,
            step_p50=measured(distribution(samples).p50, "ns"),
            temperature=tools.temperature(),
            frequency=tools.frequency(),
            events=events_between([before, tools.thermometer.throttling()]),
        )


def slowdown(minutes: list[SoakMinute]) -> Value:
    """The last minute's step rate over the first's, less 1: negative where the board slowed down."""
    if len(minutes) < 2:
        return absent("1", "the soak lasted one minute")
    first, last = (m.step_count / m.seconds for m in (minutes[0], minutes[-1]))
    return derived(last / first - 1, "1", "last minute's step rate over the first's, less 1")


def _timed(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Steps are not held up by a collection of what came before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
