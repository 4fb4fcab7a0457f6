"""The lock of a run folder: one aggregator at a time, by a file that the kernel lets go of when its holder dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from device_runtime.wire.errors import UsageError

_NAME = "lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the run folder while the block runs; its file goes afterwards, and the folder where it is empty.

    Readers of the run need no lock. Raises UsageError naming the process that holds it, or what is wrong with it; also
    where the block finds that a disk is full, or that something in the folder is not what it should be.
    """
    path = folder / _NAME
    handle = _locked(path)
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL and not str(error.filename or "").startswith(str(folder)):
            raise
        raise _refusal(folder, error) from error
    finally:
        with suppress(OSError):  # a run lies in the folder
            path.unlink()
            folder.rmdir()
        os.close(handle)


def _locked(path: Path) -> int:
    """A handle on the locked file, in which the holder's process id stands."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, path)
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise _refusal(path.parent, error) from error
    return handle


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"the run folder {str(path.parent)!r} is in use by process {os.pread(handle, 20, 0).decode() or '?'}: "
            "one aggregator at a time; stop that one, or choose another [run] folder."
        ) from error
    if not os.path.samestat(os.fstat(handle), os.stat(path)):
        raise FileNotFoundError(errno.ENOENT, "another aggregator ended just now; start again", str(path))
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)


def _refusal(folder: Path, error: OSError) -> UsageError:
    where = f"{error.filename}: " if error.filename else ""
    return UsageError(
        f"the run folder {str(folder)!r} cannot be used: {where}{error.strerror}; mend that, or choose another [run] "
        "folder."
    )
