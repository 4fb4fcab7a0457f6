"""What SQLite and the decoders say of a damaged ledger, or of one out of reach: a sentence, with the way to recover."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from device_runtime.wire.errors import UsageError

RECOVERY = "put back a copy of the run folder, or choose another [run] folder to begin anew; nothing was deleted"
# What the ledger is in good order for: it could not be reached, or there was no room.
_OUTSIDE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
}  # fmt: skip
_Class = TypeVar("_Class")


@contextmanager
def faults_told(path: Path) -> Iterator[None]:
    """What goes wrong inside the block with the ledger at `path` is raised as UsageError.

    sqlite3.IntegrityError passes: it tells of what was written, not of the file.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(fault_in_words(path, error)) from error


def fault_in_words(path: Path, error: Exception) -> str:
    """The sentence for a fault of the ledger at `path`."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the number tells kinds of one fault apart
    if code in _OUTSIDE:
        return (
            f"the ledger {str(path)!r} cannot be used: {error}. Nothing acknowledged is lost; mend it and start again."
        )
    return f"the ledger {str(path)!r} is damaged ({error}): {RECOVERY}."


def tells_faults(ledger: type[_Class]) -> type[_Class]:
    """The class, each of whose public methods tells its faults; its instances have a `path`."""
    for name, method in list(vars(ledger).items()):
        if callable(method) and not name.startswith("_"):
            setattr(ledger, name, _telling(method))
    return ledger


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def told(self: Any, *arguments: Any, **options: Any) -> Any:
        with faults_told(self.path):
            return method(self, *arguments, **options)

    return told
