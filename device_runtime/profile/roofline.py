"""The roofline: what this processor can compute and move at most, and where a layer stands below it.

After Williams, Waterman and Patterson (CACM 2009). Compute is single-precision matrix products in onnxruntime, because
its kernels are what trains; bandwidth is STREAM's add (two reads, one write) in numpy, on arrays larger than the last
cache. Both run on as many threads as the case, and the best call counts: noise only ever slows.
A layer's bytes are the tensors its nodes read and write; caches serve some of them, so a layer may lie above the slope.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from device_runtime.boards.tiny_graphs import matmul_graph
from device_runtime.engines.session import open_session
from device_runtime.metering.memory import memory_use
from device_runtime.profile.methodology import ShareDone
from device_runtime.profile.record import Bound, Roof
from device_runtime.profile.values import Value, absent, measured

MATRIX = 512
ARRAY_BYTES = 64 * 1024 * 1024
ROUNDS = 5


def measure_roof(threads: int, seconds: float, progress: ShareDone) -> Roof:
    """Measure both limits in about so many seconds."""
    share = seconds / (2 * ROUNDS)
    product, flops = _matmul(threads)
    compute = tuple(_rates(product, flops, share, lambda done: progress(done / 2)))
    add, moved = _add(threads)
    bandwidth = tuple(_rates(add, moved, share, lambda done: progress(0.5 + done / 2)))
    return Roof(
        threads=threads,
        compute=measured(max(compute), "GFLOP/s", f"onnxruntime MatMul, float32, {MATRIX}³, {threads} threads"),
        bandwidth=measured(max(bandwidth), "GB/s", f"numpy add of large arrays, {threads} threads"),
        compute_samples=compute,
        bandwidth_samples=bandwidth,
    )


def _rates(call: Callable[[], object], amount: float, seconds: float, progress: ShareDone) -> list[float]:
    """The rate of the best call of each round."""
    call()
    rates = []
    for done in range(ROUNDS):
        begin, best = time.perf_counter(), math.inf
        while time.perf_counter() - begin < seconds or best == math.inf:
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        rates.append(amount / best / 1e9)
        progress((done + 1) / ROUNDS)
    return rates


def _matmul(threads: int) -> tuple[Callable[[], object], float]:
    session = open_session(matmul_graph(MATRIX), threads)
    feed = {name: np.ones((MATRIX, MATRIX), dtype=np.float32) for name in "ab"}
    return lambda: session.run(None, feed), 2.0 * MATRIX**3


def _add(threads: int) -> tuple[Callable[[], object], float]:
    """Three arrays in all of memory's size, at most a sixteenth of what is free."""
    free = memory_use().available or 16 * ARRAY_BYTES
    count = min(ARRAY_BYTES, free // 16) // 3 // 4 // threads
    parts = [[np.ones(count, dtype=np.float32) for _ in range(3)] for _ in range(threads)]
    moved = float(sum(array.nbytes for part in parts for array in part))
    if threads == 1:
        a, b, c = parts[0]
        return lambda: np.add(a, b, out=c), moved
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda p: np.add(p[0], p[1], out=p[2]), parts)), moved


@dataclass(frozen=True, slots=True)
class Point:
    """A layer on the roofline."""

    intensity: Value
    rate: Value
    share_of_roof: Value
    bound: Bound


def point(flops: int, tensor_bytes: int, seconds: float, roof: Roof) -> Point:
    """Where `flops` executed in `seconds` over `tensor_bytes` stand; absent what cannot be known."""
    if not flops or seconds <= 0:
        nothing = "counts no FLOPs" if not flops else "too short for the trace's clock"
        return Point(absent("FLOP/B", nothing), absent("GFLOP/s", nothing), absent("1", nothing), "")
    rate = flops / seconds / 1e9
    measured_rate = _of("GFLOP/s", rate)
    if not tensor_bytes:
        lacking = "the trace gave no shapes"
        return Point(absent("FLOP/B", lacking), measured_rate, absent("1", lacking), "")
    intensity = flops / tensor_bytes
    if roof.compute.value is None or roof.bandwidth.value is None:
        return Point(_of("FLOP/B", intensity), measured_rate, absent("1", "the roof is not known"), "")
    slope = intensity * roof.bandwidth.value
    attainable = min(float(roof.compute.value), slope)
    bound: Bound = "memory" if slope < roof.compute.value else "compute"
    return Point(_of("FLOP/B", intensity), measured_rate, _of("1", rate / attainable), bound)


def _of(unit: str, value: float) -> Value:
    return Value(value=value, unit=unit, source="derived")
