"""Ctrl-C, SIGTERM and SIGHUP as a flag looked at between steps, so that no process is started and then lost."""

import signal
import threading
from types import FrameType, TracebackType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A context in which the signals that end a program only raise a flag; `check` turns the flag into an exception.

    An exception in the middle of starting a process would lose the process. Outside the main thread, which alone may
    handle signals, the flag is never raised.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in NUMBERS}
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if kind is None:
            self.check()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt where a signal came."""
        if self._asked:
            raise KeyboardInterrupt
