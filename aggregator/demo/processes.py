"""The demo's processes: started, watched, restarted when a device dies, and all stopped at the end."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aggregator.run_events import RunEvent
from device_runtime.wire.errors import EspalierError

RESTARTS_MAX = 5
STOP_TIMEOUT_S = 5.0
# One thread each for the numeric libraries: processes share the cores, and threads would only get in one another's way.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class DeviceRestarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="device_restarted"):
    """A device of the demo died and was started again."""

    device: str
    exit_code: int


Event = RunEvent | DeviceRestarted


_EVENTS = msgspec.json.Decoder(RunEvent)


class ProcessFailedError(EspalierError):
    """A process of the demo ended when it should not have."""


@dataclass(slots=True)
class Child:
    """One process of the demo, with its log."""

    name: str
    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    restarts: int = 0


@dataclass(slots=True)
class Processes:
    """The aggregator and the devices. Use as a context: leaving it leaves nothing running.

    `check` is called wherever the work may be broken off, and raises when it should be.
    """

    folder: Path
    check: Callable[[], None]
    children: dict[str, Child] = field(default_factory=dict)
    events: "queue.Queue[Event]" = field(default_factory=queue.Queue)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_aggregator(self) -> None:
        """Start the aggregator; its events, JSON lines, appear in `events`."""
        arguments = ["aggregator", "run", "--config", str(self.folder / "aggregator.toml"), "--json"]
        child = self._start("aggregator", arguments, stdout=subprocess.PIPE)
        threading.Thread(target=self._read_events, args=(child.process,), daemon=True).start()

    def start_device(self, name: str, settings: Path) -> None:
        """Start a device process."""
        self._start(name, ["device", "run", "--config", str(settings)], stdout=subprocess.DEVNULL)

    def _start(self, name: str, arguments: list[str], stdout: int) -> Child:
        self.check()
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._launch(arguments, log, stdout)
        self.children[name] = Child(name, arguments, log, process)
        self._write_pids()
        return self.children[name]

    def _launch(self, arguments: list[str], log: Path, stdout: int) -> subprocess.Popen[bytes]:
        with open(log, "ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "device_runtime", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=file,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C reaches the demo, which then stops the rest in order
            )

    def _read_events(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None, "the aggregator is started with a pipe"
        for line in process.stdout:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a line of something else
                self.events.put(_EVENTS.decode(line))

    def follow(self, tick_s: float = 0.1) -> Iterator[Event | None]:
        """Events as they come, None while nothing happens, until the aggregator has ended well.

        Raises ProcessFailedError, with the last line of its log, when the aggregator fails or a device cannot be kept
        alive.
        """
        while True:
            self.check()
            try:
                yield self.events.get(timeout=tick_s)
                continue
            except queue.Empty:
                yield None
            self._watch_devices()
            code = self.children["aggregator"].process.poll()
            if code is not None and self.events.empty():
                if code != 0:
                    raise self._failure("aggregator", code)
                return

    def _watch_devices(self) -> None:
        """Start a device again that was killed; one that fails by itself again and again ends the demo."""
        for name, child in self.children.items():
            code = child.process.poll()
            if name == "aggregator" or code in (None, 0):
                continue
            if child.restarts >= RESTARTS_MAX or code == 2:  # 2: a sentence for a person, which no restart mends
                raise self._failure(name, code or 0)
            child.restarts += 1
            child.process = self._launch(child.arguments, child.log, subprocess.DEVNULL)
            self._write_pids()
            self.events.put(DeviceRestarted(device=name, exit_code=code or 0))

    def _failure(self, name: str, code: int) -> ProcessFailedError:
        text = self.children[name].log.read_text(errors="replace").strip().splitlines()
        reason = text[-1].removeprefix("espalier: ") if text else "it said nothing"
        return ProcessFailedError(f"{name} ended with status {code}: {reason}")

    def _write_pids(self) -> None:
        pids = {name: child.process.pid for name, child in self.children.items()}
        (self.folder / "processes.json").write_text(json.dumps(pids, indent=1))

    def stop(self) -> None:
        """Ask every process to end, then make it."""
        running = [c.process for c in self.children.values() if c.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
