"""Start-up time and memory of one device process: from its start to its hello, and its peak over a training round.

python -m benchmarks.device_process                       lenet5 on 1x28x28, five starts
python -m benchmarks.device_process --engine portable --model resnet8
"""

import argparse
import json
import queue
import tempfile
import time
from pathlib import Path

import numpy as np

from aggregator.demo.broker import start_broker
from aggregator.demo.plan import Options, make_plan, write_plan
from aggregator.demo.processes import Processes
from aggregator.run_events import DeviceJoined, RunEvent, Started
from aggregator.run_folder import read_result, versions
from aggregator.settings import ModelSection


def measure(model: str, engine: str, base: Path) -> dict[str, float]:
    """One start of one device in a federation of one round."""
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(
        base / "data.npz",
        x_train=rng.integers(0, 256, (640, 28, 28), dtype=np.uint8),
        y_train=np.arange(640, dtype=np.uint8) % 10,
        x_test=rng.integers(0, 256, (64, 28, 28), dtype=np.uint8),
        y_test=np.arange(64, dtype=np.uint8) % 10,
    )
    options = Options(
        rounds=1, devices=1, data=str(base / "data.npz"), partition="iid", noise="none", engine=engine,
        model=ModelSection(name=model),
    )  # fmt: skip
    plan = make_plan(options, base / "run")
    broker = start_broker("auto", plan.folder / "broker")
    try:
        write_plan(options, plan, broker.host, broker.port)
        with Processes(plan.folder, lambda: None) as processes:
            processes.start_aggregator()
            wait_for(processes, Started)
            start = time.monotonic()
            device = plan.devices[0]
            processes.start_device(device.name, Path(device.folder) / "device.toml")
            wait_for(processes, DeviceJoined)
            hello_s = time.monotonic() - start
            for _ in processes.follow():
                pass
    finally:
        broker.stop()
    row = read_result(plan.folder).rounds[0].devices[0]
    return {"start_to_hello_s": hello_s, "rss_mb_peak": row.rss_mb_peak or 0.0, "pss_mb": row.pss_mb or 0.0}


def wait_for(processes: Processes, kind: type[RunEvent], timeout_s: float = 60.0) -> None:
    """Take events until one of `kind`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            event = processes.events.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            raise SystemExit(f"no {kind.__name__} within {timeout_s:.0f} s") from None
        if isinstance(event, kind):
            return


def main() -> None:
    """Parse arguments, measure, print JSON with medians and raw rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="espalier-device-") as name:
        rows = [measure(arguments.model, arguments.engine, Path(name) / str(i)) for i in range(arguments.starts)]
    medians = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
    print(
        json.dumps({"versions": versions(), "arguments": vars(arguments), "medians": medians, "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
