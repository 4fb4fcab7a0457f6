"""Latency and peak memory of one file, measured in a process of its own so that nothing else is counted.

python -m export.deploy.measure FILE THREADS SECONDS        prints a Cost as JSON
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from device_runtime.wire.errors import UsageError
from export.deploy.provenance import file_kind
from export.deploy.runners import open_runner
from export.extras import require

_WARM_UP_RUNS = 5
_RUNS_MIN = 20
_RUNS_MAX = 2000
_TIMEOUT_S = 600


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What running a file costs, batch 1; None where this system does not tell.

    memory_bytes_peak is what opening and running the file added to the process, above the loaded libraries.
    """

    latency_ns_p50: int
    latency_ns_p90: int
    runs: int
    memory_bytes_peak: int | None
    rss_bytes_peak: int | None


def measure(path: Path, *, threads: int = 1, seconds: float = 0.5) -> Cost:
    """Run a file in a new process for about `seconds` and give its cost.

    Raises UsageError when it does not run there.
    """
    command = [sys.executable, "-m", "export.deploy.measure", str(path.resolve()), str(threads), str(seconds)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"{path} cannot be measured ({last}): see that it runs here")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)


def measure_here(path: Path, threads: int, seconds: float) -> Cost:
    """The cost of a file, measured in this process."""
    before = _memory("VmRSS") if _reset_peak(path) else None
    runner = open_runner(path, threads)
    run = runner.ready(np.zeros((1, *runner.sample_shape), dtype=np.float32))
    times: list[int] = []
    end = time.perf_counter() + seconds
    for i in range(_WARM_UP_RUNS + _RUNS_MAX):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
        if i >= _WARM_UP_RUNS + _RUNS_MIN and time.perf_counter() > end:
            break
    kept = np.array(times[_WARM_UP_RUNS:])
    peak = _memory("VmHWM")
    return Cost(
        latency_ns_p50=int(np.percentile(kept, 50)),
        latency_ns_p90=int(np.percentile(kept, 90)),
        runs=len(kept),
        memory_bytes_peak=None if before is None or peak is None else max(peak - before, 0),
        rss_bytes_peak=peak,
    )


def _reset_peak(path: Path) -> bool:
    """Load the runtime, then let the system forget the peak so far: the libraries are no part of a model."""
    if file_kind(path) == "tflite":
        require("ai_edge_litert.interpreter", "tflite")
    else:
        require("onnxruntime", "aggregator")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _memory(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = next((line for line in text.splitlines() if line.startswith(f"{field}:")), None)
    return None if found is None else int(found.split()[1]) * 1024


if __name__ == "__main__":
    cost = measure_here(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    sys.stdout.write(msgspec.json.encode(cost).decode() + "\n")
