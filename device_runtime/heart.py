"""The heartbeat to systemd: ready once, then alive as long as training steps are made, not as long as a timer runs."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

BEAT_S = 5.0


class Heart:
    """Speaks sd_notify's protocol: one datagram to the socket that systemd names. Without systemd it does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._clock = clock
        self._ready = False
        self._beaten_s = clock()
        self._steps = -1

    def beat(self, *, training: bool, step_count: int) -> None:
        """Called from the loop that serves the broker, often. The first call says READY=1; later ones say WATCHDOG=1,
        at most every BEAT_S: while training only if `step_count` has changed since the last, otherwise always."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")
        now = self._clock()
        if now - self._beaten_s < BEAT_S or (training and step_count == self._steps):
            return
        self._beaten_s, self._steps = now, step_count
        self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        # An abstract socket is written with @ in the variable and with a zero byte in the call.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
