"""What a round costs beside training: seconds, processes, resident memory and bytes of a whole federation.

    python -m benchmarks.round_overhead                 10 devices, lenet5 (61,706 parameters), no local steps
    python -m benchmarks.round_overhead --epochs 1      the same with two steps each, so that updates are not zero

Broker, aggregator and devices are counted apart, from /proc, while the last round runs.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from aggregator.demo.plan import Options, make_plan
from aggregator.demo.processes import Event
from aggregator.demo.run import run_demo
from aggregator.run_events import RoundOpened
from aggregator.run_folder import versions
from aggregator.settings import ModelSection


def memory_by_role(folder: Path) -> dict[str, dict[str, float]]:
    """Processes, resident and proportional memory (MB) of everything whose command line names the run folder."""
    found: dict[str, dict[str, float]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            rollup = (process / "smaps_rollup").read_text()
        except OSError:
            continue
        if not any(str(folder) in part for part in command):
            continue
        role = "device" if "device" in command else "aggregator" if "aggregator" in command else "broker"
        kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:] if line.endswith("kB")}
        entry = found.setdefault(role, {"processes": 0, "rss_mb": 0.0, "pss_mb": 0.0})
        entry["processes"] += 1
        entry["rss_mb"] += kib["Rss"] * 1024 / 1e6
        entry["pss_mb"] += kib["Pss"] * 1024 / 1e6
    return found


def main() -> None:
    """Run one federation and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=0, help="local epochs")
    parser.add_argument("--sparsity", type=float, default=0.0)
    parser.add_argument("--broker", default="nats")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="espalier-overhead-") as name:
        figures = measure(arguments, Path(name))
    print(json.dumps(figures, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))


def measure(arguments: argparse.Namespace, base: Path) -> dict[str, object]:
    """The figures of one run in a fresh folder."""
    rng = np.random.default_rng(0)
    count = 64 * arguments.devices
    arrays = {
        f"{kind}_{part}": values
        for part, size in (("train", count), ("test", 64))
        for kind, values in (
            ("x", rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)),
            ("y", np.arange(size, dtype=np.uint8) % 10),
        )
    }
    np.savez(base / "data.npz", **arrays)
    options = Options(
        rounds=arguments.rounds,
        devices=arguments.devices,
        data=str(base / "data.npz"),
        partition="iid",
        noise="none",
        model=ModelSection(name="lenet5"),
        tables={
            "training": {"local_epochs": arguments.epochs, "momentum": 0.0},
            "pruning": {"sparsity": arguments.sparsity},
        },
    )
    folder = base / "run"
    plan = make_plan(options, folder)
    memory: dict[str, dict[str, float]] = {}

    def show(event: Event | None) -> None:
        if isinstance(event, RoundOpened) and event.round_index == arguments.rounds:
            memory.update(memory_by_role(folder))

    start = time.monotonic()
    result = run_demo(options, plan, arguments.broker, show)
    walls = [r.wall_s for r in result.rounds]
    return {
        "versions": versions(),
        "arguments": vars(arguments),
        "seed": options.seed,
        "round_s_median": float(np.median(walls)),
        "round_s_first": walls[0],
        "round_s": walls,
        "total_s_with_start": time.monotonic() - start,
        "memory": memory,
        "processes": sum(int(m["processes"]) for m in memory.values()),
        "rss_mb": sum(m["rss_mb"] for m in memory.values()),
        "pss_mb": sum(m["pss_mb"] for m in memory.values()),
        "bytes_up_per_round": result.totals.bytes_up / arguments.rounds,
        "bytes_down_per_round": result.totals.bytes_down / arguments.rounds,
    }


if __name__ == "__main__":
    main()
