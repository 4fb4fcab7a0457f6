"""What a round of many devices costs the aggregator alone: seconds and memory, without broker, training or network.

    python -m benchmarks.fleet_round                        10, 100 and 1,000 devices of lenet5 (61,706 parameters)
    python -m benchmarks.fleet_round --devices 1000 --sparsity 0.8 --json F

Every device is the real agent behind a link in memory: it joins, pulls its submodel, makes an update of noise in place
of training, offers it and is pulled from. The aggregator is the real shell with its ledger and blobs on disk. What the
devices took is told apart and taken off; each number of devices runs in a process of its own, whose greatest resident
memory is that of aggregator and devices together.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.core.pruning import Pruning
from aggregator.run_events import RoundCommitted, RoundOpened, RunEvent, UpdateJudged
from aggregator.run_folder import versions
from aggregator.service import Aggregator
from aggregator.settings import (
    LinkSettings,
    ModelSection,
    RoundsSection,
    RunSection,
    Settings,
)
from device_runtime import agent
from device_runtime import agent_events as events
from device_runtime.surroundings import Arrived, LinkUp, MachineClock, Post, Station, Surroundings, ThreadWorker
from device_runtime.wire import limits
from device_runtime.wire.draws import Draws
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.measurement import NO_PHASE, Measurement, derived, measured
from device_runtime.wire.messages import Assignment, Chunk, Get, Goodbye, Hello, Message, Offer
from device_runtime.wire.submodel import encode_kept
from device_runtime.wire.support import Kept, Support, sha256_hex
from device_runtime.wire.topics import up_topic

SITE = "home"
ROUNDS = 2  # the first builds what the second has


class MemoryDevice:
    """The real agent; its update is noise that is made anew whenever a chunk of it is asked for, so nothing is kept."""

    def __init__(self, number: int, fleet: "MemoryFleet") -> None:
        self.name = f"device-{number:05d}"
        self._fleet = fleet
        self._number = number
        self._offer: Offer | None = None
        hello = Hello(device=self.name, session="s1", engines=("portable",), sample_count=50 + number % 7, version="0")
        self._state = agent.AgentState(hello=hello, leave_when_released=True)

    def happens(self, event: events.Event) -> None:
        """Feed the agent and do as it says."""
        self._state, commands = agent.step(self._state, event, time.monotonic_ns())
        for command in commands:
            self._carry_out(command)

    def told(self, message: Message) -> None:
        """A message of the aggregator."""
        if isinstance(message, Assignment):
            self._fleet.supports = self._fleet.supports_of(message)
            wanted = (message.graph_sha, message.params_sha, *message.support_shas)
            lacking = tuple(sha for sha in wanted if (self.name, sha) not in self._fleet.held)
            self.happens(events.Assigned(message, lacking, None))
        else:
            self.happens(events.Received(message))

    def _carry_out(self, command: events.Command) -> None:
        match command:
            case events.Publish(message):
                self._fleet.up(self.name, message)
            case events.StoreBlob(sha):
                self._fleet.held.add((self.name, sha))
            case events.Train(assignment):
                self._train(assignment)
            case events.SpoolUpdate(offer):
                self._offer = offer
            case events.Serve(get):
                self._serve(get)
            case events.Leave():
                self._fleet.left(self.name, self._state.hello.session)

    def _update(self, round_index: int) -> bytes:
        return self._fleet.noise(self._number, round_index)

    def _train(self, assignment: Assignment) -> None:
        update = self._update(assignment.model_version)
        offer = Offer(
            assignment_id=assignment.id,
            device=self.name,
            update_sha=sha256_hex(update),
            size_bytes=len(update),
            sample_count=self._state.hello.sample_count,
            measurement=MEASUREMENT,
        )
        self.happens(events.Trained(offer, update))

    def _serve(self, get: Get) -> None:
        assert self._offer is not None, "an update is asked for after its offer"
        data = self._update(int(self._offer.assignment_id.split("-")[1]))
        for index in get.indices:
            start = index * limits.CHUNK_BYTES_MAX
            if start < len(data):
                part = data[start : start + limits.CHUNK_BYTES_MAX]
                self._fleet.up(self.name, Chunk(sha=get.sha, index=index, size_bytes=len(data), data=part))


class MemoryFleet:
    """The link of the aggregator and all the devices at its other end; `device_s` is what they took."""

    def __init__(self, count: int) -> None:
        self.devices = {device.name: device for device in (MemoryDevice(n, self) for n in range(count))}
        self.held: set[tuple[str, str]] = set()
        self.device_s = 0.0
        self.supports: Mapping[str, Support] = {}
        self.supports_of: Callable[[Assignment], Mapping[str, Support]] = lambda _: {}
        self.bytes_published = self.bytes_received = 0
        self._post: Post = lambda _: None

    # --- the link's side ---------------------------------------------------------------------------------------

    def open_link(self, _station: Station, post: Post) -> "MemoryFleet":
        """The one link that there is."""
        self._post = post
        return self

    def connect(self) -> None:
        """The aggregator is up: everybody says hello."""
        self._post(LinkUp())
        for device in self.devices.values():
            device.happens(events.Connected())

    def publish(self, topic: str, payload: bytes) -> None:
        """A message down; what the devices do about it is not the aggregator's time."""
        start = time.perf_counter()
        message = decode_message(payload, allow_unsigned=True)
        name = topic.split("/")[-2]
        for device in list(self.devices.values()) if topic.endswith("/all") else [self.devices[name]]:
            device.told(message)
        self.device_s += time.perf_counter() - start

    def flush(self, timeout_s: float = 2.0) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing to release."""

    # --- the devices' side -------------------------------------------------------------------------------------

    def up(self, name: str, message: Message) -> None:
        """A message up, into the aggregator's inbox."""
        self._post(Arrived(up_topic(SITE, name), encode_message(message)))

    def left(self, name: str, session: str) -> None:
        """A device that was released says goodbye."""
        self.up(name, Goodbye(device=name, session=session))

    def noise(self, number: int, round_index: int) -> bytes:
        """An update of the size of a real one."""
        draws = np.random.default_rng((number, round_index))
        kept = {n: Kept(draws.normal(0, 0.01, s.count).astype(np.float32), s) for n, s in self.supports.items()}
        return encode_kept(kept, lambda _: "fp16", lambda n: Draws(0, "unused", n))


MEASUREMENT = Measurement(
    engine="portable", engine_version="1", threads=1, step_count=5, sample_count=50,
    loss_first=measured(2.5), loss_last=measured(1.25),
    download=NO_PHASE, load=NO_PHASE, train=NO_PHASE, serialise=NO_PHASE, upload_previous=NO_PHASE,
    step_ns_p50=measured(2_000_000), step_ns_p90=measured(3_000_000), step_ns_p99=measured(4_000_000),
    rss_bytes=measured(1 << 27), rss_peak_bytes=measured(1 << 27), pss_bytes=measured(1 << 27),
    bytes_down=measured(50_000), bytes_up=measured(50_000), flops_dense=derived(10**9), flops_ideal=derived(10**8),
    flops_executed=derived(10**9), gflops_per_s=derived(1.0), temperature_c=measured(50.0),
    frequency_hz=measured(1.5e9),
)  # fmt: skip


def measure(count: int, sparsity: float) -> dict[str, object]:
    """The figures of one fleet, in this process."""
    fleet = MemoryFleet(count)
    moments: dict[type, list[Moment]] = defaultdict(list)
    syncs = Syncs()

    def hear(event: RunEvent) -> None:
        moments[type(event)].append(Moment(time.perf_counter(), fleet.device_s, syncs.count))

    with tempfile.TemporaryDirectory(prefix="espalier-fleet-") as name:
        settings = Settings(
            run=RunSection(folder=str(Path(name) / "run"), leave_after_s=5.0),
            input=InputSpec(shape=(1, 28, 28)),
            model=ModelSection(name="lenet5"),
            pruning=Pruning(sparsity=sparsity),
            rounds=RoundsSection(count=ROUNDS, devices_min=count, quorum=count, deadline_s=3600.0),
            link=LinkSettings(allow_unsigned=True, site=SITE),
        )
        surroundings = Surroundings(fleet.open_link, MachineClock(), ThreadWorker())
        aggregator = Aggregator(settings, surroundings, [hear])
        fleet.supports_of = aggregator._work._federation.submodels.supports_of
        syncs.watch(aggregator)
        start = Moment(time.perf_counter(), 0.0, syncs.count)
        assert aggregator.run(threading.Event()), "the run finishes"
    opened, updated, closed = (moments[kind][-1] for kind in (RoundOpened, UpdateJudged, RoundCommitted))
    return {
        "devices": count,
        "update_bytes": len(fleet.noise(0, ROUNDS)),
        "join_s": moments[RoundOpened][0].since(start),
        "round_s": closed.since(opened),
        "collect_s": updated.since(opened),
        "close_s": closed.since(updated),
        "syncs": closed.syncs - opened.syncs,
        "devices_s": closed.device_s - opened.device_s,
        "rss_mb_peak": peak_mb(),
    }


@dataclass(frozen=True)
class Moment:
    """When something was told, what the devices had taken by then, and how often the disk was waited for."""

    at_s: float
    device_s: float
    syncs: int

    def since(self, start: "Moment") -> float:
        """Seconds between two moments that were not the devices'."""
        return (self.at_s - start.at_s) - (self.device_s - start.device_s)


class Syncs:
    """Counts what waits for the disk: files and folders made durable, and commits of the ledger."""

    def __init__(self) -> None:
        self.count = 0
        self._fsync = os.fsync

    def watch(self, aggregator: Aggregator) -> None:
        """Count from here on."""
        os.fsync = self._counted
        aggregator._ledger._db.set_trace_callback(self._statement)

    def _counted(self, handle: int) -> None:
        self.count += 1
        self._fsync(handle)

    def _statement(self, text: str) -> None:
        self.count += text == "COMMIT"


def peak_mb() -> float:
    """The greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Run every fleet in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="10,100,1000", help="how many, comma-separated")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    counts = [int(part) for part in arguments.devices.split(",")]
    if arguments.here:
        print(json.dumps(measure(counts[0], arguments.sparsity)))
        return
    rows = []
    print(f"{'devices':>8} {'join s':>8} {'round s':>8} {'collect s':>10} {'close s':>8} {'syncs':>6} {'peak MB':>8}")
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.fleet_round", "--here"]
        command += ["--devices", str(count), "--sparsity", str(arguments.sparsity)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{count:8} {row['join_s']:8.2f} {row['round_s']:8.2f} {row['collect_s']:10.2f} {row['close_s']:8.2f}"
            f" {row['syncs']:6} {row['rss_mb_peak']:8.1f}",
            flush=True,
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
