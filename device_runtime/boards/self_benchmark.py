"""How fast this board really is: matrix products, convolutions and memory, on one core and on all.

Products and convolutions run in onnxruntime, because that is what trains; memory is copied and added by numpy on
arrays four times the last cache. A rate is the best of its repeats (noise only ever slows), and every repeat is kept.
"""

import datetime
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from device_runtime.boards.tiny_graphs import conv_graph, matmul_graph
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.engines.session import open_session
from device_runtime.metering.system import temperature_c, usable_cores
from firmware_profiles.detect import Detection
from firmware_profiles.facts import memory_bytes, read_text
from firmware_profiles.measured import MeasuredBoard, Quantity, Rate

MATRIX = 768
CHANNELS, SIDE, KERNEL = 64, 56, 3
ARRAY_BYTES_MIN = 32 * 1024 * 1024
REPEATS = 5
# On one core, and on all.
QUANTITIES: dict[str, tuple[Quantity, Quantity]] = {
    "gemm": ("gemm_core", "gemm_all"),
    "conv": ("conv_core", "conv_all"),
    "copy": ("copy_core", "copy_all"),
    "add": ("add_core", "add_all"),
}
Progress = Callable[[str, int, int], None]
Work = Callable[[], object]


def measure_board(detection: Detection, *, seconds: float, progress: Progress) -> MeasuredBoard:
    """Run every benchmark, about `seconds` in all; `progress` hears the name, and how many are done of how many."""
    board = detection.board
    cpus = board.onnxruntime.cpus if board else ""
    rates: list[Rate] = []
    with _pinned(cpus):
        cores = usable_cores()
        plan = [item for one, every in QUANTITIES.values() for item in ((one, 1), (every, cores))]
        doubts = [] if detection.certainty == "none" else list(detection.doubts)
        doubts += _busy(cores)
        for done, (quantity, threads) in enumerate(plan):
            progress(quantity, done, len(plan))
            rates.append(_measure(quantity, threads, seconds / len(plan)))
        progress("", len(plan), len(plan))
    doubts += _slower(rates)
    doubts += _hot(board.limits.temperature_max.value if board and board.limits.temperature_max else None)
    return MeasuredBoard(
        board=board.id if board else "unknown",
        date=datetime.date.today().isoformat(),
        machine=detection.facts.model or detection.facts.cpu_model or detection.facts.architecture,
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": str(import_onnxruntime().__version__),
        },
        rates=tuple(rates),
        hypervisor=detection.facts.hypervisor,
        doubts=tuple(doubts),
    )


def _measure(quantity: Quantity, threads: int, seconds: float) -> Rate:
    """One benchmark: a warm-up, then repeats of `seconds` / REPEATS each."""
    kind = quantity.partition("_")[0]
    is_product = kind in ("gemm", "conv")
    work, amount, how = _product(kind, threads) if is_product else _traffic(kind, threads)
    work()
    samples = tuple(amount / _seconds_per_call(work, seconds / REPEATS) / 1e9 for _ in range(REPEATS))
    return Rate(
        quantity=quantity, value=max(samples), unit="GFLOP/s" if is_product else "GB/s", threads=threads,
        samples=samples, how=how,
    )  # fmt: skip


def _seconds_per_call(work: Work, seconds: float) -> float:
    calls, begin = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return elapsed / calls


def _product(kind: str, threads: int) -> tuple[Work, float, str]:
    """What to call, its operations (a multiply-add is two), and its words."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if kind == "gemm":
        graph, shapes = matmul_graph(MATRIX), ((MATRIX, MATRIX), (MATRIX, MATRIX))
        flops, how = 2.0 * MATRIX**3, f"onnxruntime MatMul, float32, {MATRIX}³, {threads} thread(s)"
    else:
        graph, shapes = (
            conv_graph(CHANNELS, SIDE, KERNEL),
            ((1, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, KERNEL, KERNEL)),
        )
        flops = 2.0 * CHANNELS * CHANNELS * KERNEL * KERNEL * SIDE * SIDE
        how = f"onnxruntime Conv {KERNEL} by {KERNEL}, {CHANNELS} channels, {SIDE} by {SIDE}, {threads} thread(s)"
    session = open_session(graph, threads)
    rng = np.random.default_rng(0)
    feed = {name: rng.random(shape, dtype=np.float32) for name, shape in zip("ab", shapes, strict=True)}
    return lambda: session.run(None, feed), flops, how


def _traffic(kind: str, threads: int) -> tuple[Work, float, str]:
    """What to call, the bytes it reads and writes, and its words."""
    size = _array_bytes() // 4 // threads
    parts = [[np.ones(size, np.float32) for _ in range(2 if kind == "copy" else 3)] for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def one(arrays: list[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> None:
        if kind == "copy":
            np.copyto(arrays[0], arrays[1])
        else:
            np.add(arrays[1], arrays[2], out=arrays[0])

    moved = float(sum(a.nbytes for part in parts for a in part))
    how = f"numpy {kind}, bytes read plus written, {threads} thread(s)"
    return (lambda: one(parts[0])) if threads == 1 else (lambda: list(pool.map(one, parts))), moved, how


def _array_bytes(root: Path = Path("/")) -> int:
    """Four times the last cache, at least 32 MiB, at most a sixteenth of what memory is free."""
    caches = [
        int(text[:-1]) * 1024
        for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if re.fullmatch(r"\d+K", text := (read_text(path) or "").strip())
    ]
    free = memory_bytes(root, "MemAvailable") or 16 * ARRAY_BYTES_MIN
    return min(max(ARRAY_BYTES_MIN, 4 * max(caches, default=0)), max(free // 16, 1024 * 1024))


@contextmanager
def _pinned(cpus: str) -> Iterator[None]:
    """Run on the CPUs of a list such as "4-7" where they exist; on all that are allowed otherwise."""
    before = os.sched_getaffinity(0)
    wanted = parse_cpus(cpus) & before
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def parse_cpus(text: str) -> set[int]:
    """A CPU list as the kernel writes it: "0-2,5" is {0, 1, 2, 5}."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def _busy(cores: int) -> list[str]:
    load = os.getloadavg()[0]
    return [f"the load was {load:.1f} on {cores} cores before it began; stop other work"] if load > 0.3 * cores else []


def _slower(rates: list[Rate]) -> list[str]:
    """All cores slower than one of them: they were not all free."""
    best = {rate.quantity: rate.value for rate in rates}
    kinds = [kind for kind, (one, every) in QUANTITIES.items() if best.get(every, 0) < 0.9 * best.get(one, 0)]
    return [f"{', '.join(kinds)}: all cores were slower than one; something else ran"] if kinds else []


def _hot(limit_c: float | None) -> list[str]:
    now = temperature_c()
    if now is None or limit_c is None or now < limit_c:
        return []
    return [f"the processor was {now:.0f} °C warm at the end, and throttles from {limit_c:.0f} °C; cool it"]
