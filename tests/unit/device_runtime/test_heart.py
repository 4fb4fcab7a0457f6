"""The heartbeat to systemd: ready once, alive by training steps, silent when training hangs."""

import socket
from pathlib import Path

import pytest

from device_runtime.heart import BEAT_S, Heart


class Systemd:
    """A socket that listens as systemd does."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self._socket.recv(100).decode())
            except BlockingIOError:
                return said


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_is_said_once_and_alive_not_too_often(abstract: bool, tmp_path: Path) -> None:
    address = f"@espalier-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    systemd, clock = Systemd(address), Clock()
    heart = Heart({"NOTIFY_SOCKET": address}, clock)
    for _ in range(41):  # a quarter of a second between calls
        heart.beat(training=False, step_count=0)
        clock.now += 0.25
    assert systemd.heard() == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def test_training_that_makes_no_step_is_silent_until_it_does(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    systemd, clock = Systemd(address), Clock()
    heart = Heart({"NOTIFY_SOCKET": address}, clock)
    heart.beat(training=True, step_count=0)
    clock.now += BEAT_S
    heart.beat(training=True, step_count=7)
    assert systemd.heard() == ["READY=1", "WATCHDOG=1"]
    for _ in range(100):
        clock.now += BEAT_S
        heart.beat(training=True, step_count=7)
    assert systemd.heard() == []
    heart.beat(training=True, step_count=8)
    assert systemd.heard() == ["WATCHDOG=1"]


def test_without_systemd_and_with_a_socket_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        Heart(environ).beat(training=False, step_count=0)
