"""Real processes for the tests: commands, a federation run by hand, and the promise that nothing stays behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals
from typing import Any

import msgspec
import safetensors.numpy

from aggregator.demo.plan import Options, Plan, device_arrays, make_plan, write_plan
from aggregator.ledger import Ledger
from aggregator.settings import settings_of
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
Event = dict[str, Any]


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of `condition`; an assertion naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)
    return value


def command(*arguments: str) -> list[str]:
    """The command line of `espalier ARGUMENTS` with this interpreter."""
    return [sys.executable, "-m", "device_runtime", *arguments]


def espalier(*arguments: str | Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run `espalier ARGUMENTS` to its end."""
    return subprocess.run(
        command(*map(str, arguments)), env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def processes_about(folder: Path) -> list[str]:
    """Command lines of the running processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def params_bytes(folder: Path) -> bytes:
    """The final parameters of a finished run."""
    (path,) = (folder / "models").glob("*/params.safetensors")
    return path.read_bytes()


def undisturbed_bytes(options: Options, plan: Plan, folder: Path) -> bytes:
    """The final parameters of the same plan, run in this process without a broker."""
    arrays = device_arrays(options, plan)
    data = {d.name: LocalData(x, y, d.name) for d, (x, y) in zip(plan.devices, arrays, strict=True)}
    run_section = msgspec.structs.replace(plan.settings.run, folder=str(folder), held_out="")
    settings = msgspec.structs.replace(plan.settings, run=run_section)
    return safetensors.numpy.save(dict(run_in_process(settings, data, folder).state.model.theta))


@dataclass
class Fleet:
    """An aggregator and devices, each started by its own command line from the files that the demo would write."""

    plan: Plan
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.plan.folder

    @property
    def names(self) -> list[str]:
        """Names of the devices."""
        return [d.name for d in self.plan.devices]

    def start(self, *names: str) -> None:
        """Start "aggregator" or devices; output goes to files beside the settings, appended to."""
        for name in names:
            if name == "aggregator":
                line = command("aggregator", "run", "--config", str(self.folder / "aggregator.toml"), "--json")
            else:
                line = command("device", "run", "--config", str(self.folder / "devices" / name / "device.toml"), "-v")
            with open(self._path(name, "out"), "ab") as out, open(self._path(name, "err"), "ab") as err:
                self.running[name] = subprocess.Popen(
                    line, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=err
                )

    def start_all(self) -> None:
        """Start the aggregator and every device."""
        self.start("aggregator", *self.names)

    def signal(self, name: str, number: Signals) -> None:
        """Send a signal to a process, which must be running."""
        assert self.running[name].poll() is None, f"{name} ended before: {self.log(name)}"
        self.running[name].send_signal(number)

    def end(self, name: str, number: Signals, timeout_s: float = 10.0) -> int:
        """Send a signal that ends a process and wait for its end; its exit status."""
        self.signal(name, number)
        return self.wait(name, timeout_s)

    def kill_and_restart(self, name: str) -> None:
        """SIGKILL a process and start it again."""
        self.end(name, SIGKILL)
        self.start(name)

    def wait(self, name: str, timeout_s: float = 60.0) -> int:
        """The exit status of a process that ends by itself."""
        status = self.running[name].wait(timeout_s)
        del self.running[name]
        return status

    def finish(self, timeout_s: float = 60.0) -> None:
        """Wait for the aggregator and every running device to end well."""
        for name in ["aggregator", *(n for n in self.running if n != "aggregator")]:
            status = self.wait(name, timeout_s)
            assert status == 0, f"{name} ended with {status}: {self.log(name)}"

    def log(self, name: str) -> str:
        """What a process said on stderr so far."""
        path = self._path(name, "err")
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self, kind: str = "", **fields: object) -> list[Event]:
        """The aggregator's events so far, of all its lives, that match."""
        path = self._path("aggregator", "out")
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}\n")]
        return [e for e in events if kind in ("", e["event"]) and all(e.get(k) == v for k, v in fields.items())]

    def wait_for(self, kind: str, timeout_s: float = 40.0, **fields: object) -> Event:
        """The first event that matches, waited for."""
        found = wait_until(lambda: self.events(kind, **fields), timeout_s, f"event {kind} {fields}")
        return found[0]  # type: ignore[no-any-return]

    def accepted(self) -> list[tuple[int, str]]:
        """(round, device) of every update that the ledger counts."""
        ledger = Ledger(self.folder / "ledger.sqlite", read_only=True)
        try:
            rows = ledger._db.execute(
                "SELECT round_index, device FROM updates WHERE verdict = 'accepted' ORDER BY 1, 2"
            )
            return [(int(r), str(d)) for r, d in rows]
        finally:
            ledger.close()

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / "output" / f"{name}.{kind}"

    def stop(self) -> None:
        """End whatever still runs."""
        for process in self.running.values():
            process.send_signal(SIGCONT)
            process.kill()
            process.wait(10)
        self.running.clear()


@contextmanager
def fleet(options: Options, folder: Path, port: int, **changes: dict[str, object]) -> Iterator[Fleet]:
    """The federation that `options` describe, its files written, nothing started yet; `changes` are by section."""
    plan = make_plan(options, folder)
    tables = msgspec.to_builtins(plan.settings)
    settings = settings_of({**tables, **{n: {**tables[n], **values} for n, values in changes.items()}}, "the test")
    devices = tuple(msgspec.structs.replace(d, link=settings.link) for d in plan.devices)
    plan = replace(plan, settings=settings, devices=devices)
    write_plan(options, plan, settings.link.host, port)
    (folder / "output").mkdir()
    made = Fleet(plan)
    try:
        yield made
    finally:
        made.stop()
