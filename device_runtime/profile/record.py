"""The record of a profile run: its JSON, version 1, each value with where it comes from."""

from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.profile.values import Distribution, PhaseSamples, Strict, Value
from device_runtime.wire.errors import UsageError

VerdictKind = Literal["valid", "throttled", "under-voltage", "noisy", "emulated"]
Bound = Literal["compute", "memory", ""]
FORMAT: Literal["espalier-profile"] = "espalier-profile"


class Plan(Strict, frozen=True, kw_only=True):
    """The method: see docs/reference/profile.md. Times in seconds."""

    repeats: int = 5
    seconds: float = 10.0
    steps_min: int = 10
    warm_up_steps_min: int = 10
    warm_up_seconds: float = 5.0
    warm_up_seconds_max: float = 60.0
    cool_down_seconds_max: float = 180.0
    idle_seconds: float = 3.0
    phase_repeats: int = 5
    soak_minutes: float = 0.0
    is_quick: bool = False


class Cold(Strict, frozen=True, kw_only=True):
    """The first time of everything, in a fresh process: never part of the repeats."""

    import_engine: Value
    open: Value
    load: Value
    first_step: Value


class WarmUp(Strict, frozen=True, kw_only=True):
    """Steps that were run and thrown away; stable once two windows of steps agree within 5 %."""

    steps: int
    seconds: float
    is_stable: bool


class Repeat(Strict, frozen=True, kw_only=True):
    """One repeat with its raw samples. `events` are throttle and voltage events seen or newly latched in it; `others`
    and `stolen` are cores that other processes, and the host of a virtual machine, kept busy on average."""

    step_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    cooled_seconds: float
    temperature_start: Value
    temperature_end: Value
    frequency_start: Value
    frequency_end: Value
    events: tuple[str, ...]
    others: Value
    stolen: Value
    energy: Value
    counters: dict[str, Value]


class Memory(Strict, frozen=True, kw_only=True):
    """Of the process that ran the case: interpreter, libraries, batches and model."""

    pss: Value
    pss_anonymous: Value
    swap_pss: Value
    rss_peak: Value
    swap_used_before: Value
    swap_used_after: Value


class StepFlops(Strict, frozen=True, kw_only=True):
    """FLOPs of one step, by the artifact's cost table."""

    dense: Value
    ideal: Value
    executed: Value


class Energy(Strict, frozen=True, kw_only=True):
    """Of the whole sensor's domain during the repeats; net is gross less idle power just before and after."""

    sensor: str
    idle_power: Value
    gross_per_step: Value
    net_per_step: Value


class Payload(Strict, frozen=True, kw_only=True):
    """Bytes of the blobs that a round would carry; `socket` are bytes counted on the wire."""

    params: Value
    supports: Value
    update: Value
    socket: Value


class Layer(Strict, frozen=True, kw_only=True):
    """One layer in one pass of a step. `time` is `time_raw` less what tracing adds to every node."""

    layer: str
    step_part: str
    op: str
    weight: str
    node_count: int
    time: Value
    time_raw: Value
    flops_dense: Value
    flops_ideal: Value
    flops_executed: Value
    tensor_bytes: Value
    intensity: Value
    rate: Value
    share_of_roof: Value
    bound: Bound = ""


class Layers(Strict, frozen=True, kw_only=True):
    """The per-layer view of a short run of its own. `explained` is the sum over layers against the timed step's p50,
    `explained_interleaved` against plain steps run in turn with the traced ones."""

    rows: tuple[Layer, ...]
    profiled_steps: int
    node_count: int
    profiler_per_node: Value
    total: Value
    interleaved_step: Value
    explained: Value
    explained_interleaved: Value


class SoakMinute(Strict, frozen=True, kw_only=True):
    """One minute of a soak."""

    step_count: int
    seconds: float
    step_p50: Value
    temperature: Value
    frequency: Value
    events: tuple[str, ...]


class Soak(Strict, frozen=True, kw_only=True):
    """A long run without pause; `slowdown` is the last minute's step rate over the first's, less 1."""

    minutes: tuple[SoakMinute, ...]
    slowdown: Value


class Verdict(Strict, frozen=True, kw_only=True):
    """Whether the numbers may stand for the board, and why not; only a valid case is ever aggregated."""

    kind: VerdictKind
    reasons: tuple[str, ...] = ()

    @property
    def may_aggregate(self) -> bool:
        """Whether the case may enter a mean, a median or a fit over boards."""
        return self.kind == "valid"


class Case(Strict, frozen=True, kw_only=True):
    """One engine at one sparsity."""

    engine: str
    engine_version: str
    artifact_sha: str
    sparsity: float
    kept_count: int
    prunable_count: int
    threads: int
    batch: int
    cold: Cold
    warm_up: WarmUp
    download: PhaseSamples
    load: PhaseSamples
    serialise: PhaseSamples
    upload: PhaseSamples
    step: Distribution
    repeats: tuple[Repeat, ...]
    spread: Value
    steps_per_second: Value
    samples_per_second: Value
    flops: StepFlops
    rate: Value
    share_of_peak: Value
    memory: Memory
    energy: Energy
    counters_per_step: dict[str, Value]
    payload: Payload
    layers: Layers | None
    layers_note: str
    soak: Soak | None
    verdict: Verdict


class Roof(Strict, frozen=True, kw_only=True):
    """The limits of the roofline for this number of threads, with every sample where they were measured here."""

    threads: int
    compute: Value
    bandwidth: Value
    compute_samples: tuple[float, ...] = ()
    bandwidth_samples: tuple[float, ...] = ()


class Preflight(Strict, frozen=True, kw_only=True):
    """The machine just before the run. `doubts` are sentences about what may spoil the numbers."""

    governor: str
    load_1min: Value
    temperature: Value
    frequency: Value
    events: tuple[str, ...]
    swap_used: Value
    memory_available: Value
    doubts: tuple[str, ...]


class Machine(Strict, frozen=True, kw_only=True):
    """Which board, kernel and libraries. `emulated` says by what, "" for a real or virtual machine."""

    board: str
    board_certainty: str
    model: str
    architecture: str
    kernel: str
    page_size: int
    cores: int
    cores_usable: int
    emulated: str
    hypervisor: str
    versions: dict[str, str]


class Subject(Strict, frozen=True, kw_only=True):
    """What was trained, on what: values are drawn, see docs/reference/profile.md."""

    model: str
    input_shape: tuple[int, ...]
    class_count: int
    optimizer: str
    seed: int
    data: str
    masks: str


class Profile(Strict, frozen=True, kw_only=True):
    """One profile run. `failures` says of each case that could not be run which it was, and why."""

    format: Literal["espalier-profile"] = FORMAT
    version: Literal[1] = 1
    date: str
    machine: Machine
    preflight: Preflight
    plan: Plan
    subject: Subject
    roof: Roof
    cases: tuple[Case, ...]
    failures: tuple[str, ...] = ()


def encode_profile(profile: Profile) -> bytes:
    """The profile as JSON."""
    return msgspec.json.encode(profile)


def read_profile(path: Path) -> Profile:
    """The profile in a JSON file. Raises UsageError naming the file, and what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the profile {str(path)!r} cannot be read: {error.strerror or error}.") from error
    return decode_profile(data, repr(str(path)))


def decode_profile(data: bytes, source: str) -> Profile:
    """The profile in the bytes of a file. Raises UsageError naming `source`, and what is wrong with it."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"{source} is no profile of version 1 ({error}): make one with 'espalier device profile --json FILE'."
        ) from error
