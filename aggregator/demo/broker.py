"""A real MQTT broker for the demo and the tests: nats-server from the package index, or an installed mosquitto."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from device_runtime.wire.errors import UsageError

START_TIMEOUT_S = 15.0
PORT_MIN, PORT_MAX = 20_000, 32_000
HOST = "127.0.0.1"

_NATS = """host: {host}
port: -1
server_name: espalier
jetstream {{ store_dir: "{folder}" }}
mqtt {{ host: {host}, port: {port} }}
"""
_MOSQUITTO = """listener {port} {host}
allow_anonymous true
set_tcp_nodelay true
persistence false
{extra}"""


@dataclass(slots=True)
class Broker:
    """A broker at `host`:`port`; `process` is None when it is somebody else's."""

    kind: str
    host: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Stop the broker if it is ours."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    """A TCP port of the loopback that is free now, below the range that systems hand out by themselves.

    A connection attempt to a port of that range may get the very port as its own end, and so connect to itself and keep
    the broker out.
    """
    while True:
        port = PORT_MIN + secrets.randbelow(PORT_MAX - PORT_MIN)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def find_binary(kind: str) -> str | None:
    """Where the broker's program is: beside this Python, on the path, or among the system's."""
    name = {"nats": "nats-server", "mosquitto": "mosquitto"}[kind]
    beside = Path(sys.executable).with_name(name)
    return (
        str(beside) if beside.is_file() else shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    )


def choose_broker(choice: str) -> "str | Broker":
    """The kind of broker to start for `auto`, `nats` or `mosquitto`; or the running one at `HOST:PORT`.

    Raises UsageError when the program is missing, or nothing answers there.
    """
    if choice not in ("auto", "nats", "mosquitto"):
        return _given(choice)
    kinds = ("nats", "mosquitto") if choice == "auto" else (choice,)
    kind = next((k for k in kinds if find_binary(k)), None)
    if kind is None:
        raise UsageError(
            f"no broker program found ({', '.join(kinds)}): pip install 'espalier-fl[demo]' brings nats-server, "
            "apt install mosquitto brings mosquitto, and --broker HOST:PORT uses a running one."
        )
    return kind


def start_broker(choice: str, folder: Path, *, port: int = 0, extra: str = "") -> Broker:
    """Start `auto`, `nats` or `mosquitto` on the loopback; or take `HOST:PORT` as given.

    `extra` is appended to mosquitto's configuration. Returns when the port answers.
    Raises UsageError when the program is missing, the port is taken, or it does not come up.
    """
    found = choose_broker(choice)
    if isinstance(found, Broker):
        return found
    kind = found
    if port and _answers(HOST, port):
        raise UsageError(f"port {port} is taken by another program: choose another, or stop that one.")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    process = _launch(kind, folder, port, extra)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(HOST, port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            log = (folder / f"{kind}.log").read_text(errors="replace").strip().splitlines()
            raise UsageError(f"{kind} does not start on port {port}: {log[-1] if log else 'no output'}.")
        time.sleep(0.02)
    return Broker(kind, HOST, port, process)


def _launch(kind: str, folder: Path, port: int, extra: str) -> subprocess.Popen[bytes]:
    config = folder / f"{kind}.conf"
    if kind == "nats":
        config.write_text(_NATS.format(host=HOST, port=port, folder=folder / "nats-store"))
    else:
        config.write_text(_MOSQUITTO.format(host=HOST, port=port, extra=extra))
    program = find_binary(kind)
    assert program is not None, "looked up before"
    with open(folder / f"{kind}.log", "wb") as log:
        # A session of its own, so that Ctrl-C reaches the demo first and the broker is stopped last.
        return subprocess.Popen(
            [program, "-c", str(config)], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def _given(choice: str) -> Broker:
    host, _, port = choice.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--broker {choice!r} is none of auto, nats, mosquitto, and no HOST:PORT either.")
    if not _answers(host, int(port)):
        raise UsageError(f"no broker answers at {choice}: start one there, or use --broker auto.")
    return Broker("given", host, int(port))


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
