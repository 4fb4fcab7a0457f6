"""Counting subnormal numbers as zero on the calling thread, while a block runs and no longer.

onnxruntime's own option sets this mode once, for whichever thread happens to open the process' first session, and
leaves it set there: later steps on other threads would run without it, and numpy on that thread with it. So the mode is
set here around each call, by glibc's fegetenv and fesetenv (fenv_t: MXCSR at byte 28 on x86-64, FPCR at byte 0 on
aarch64). On any other system the block runs as it is.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of the control register: where it lies in fenv_t, and its bits flush-to-zero (and, on x86, denormals-are-zero).
_REGISTERS = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
_ENVIRONMENT_BYTES = 64  # fenv_t is 32 bytes on x86-64 and 8 on aarch64
_OFFSET, _BITS = _REGISTERS.get(platform.machine(), (0, 0)) if sys.platform == "linux" else (0, 0)


def _glibc_maths() -> ctypes.CDLL | None:
    """glibc's libm, None where the system has another or the processor is unknown."""
    try:
        return ctypes.CDLL("libm.so.6") if _BITS else None
    except OSError:
        return None


_LIBM = _glibc_maths()


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Run the block with subnormal inputs and results counted as zero; afterwards the thread is as it was."""
    if _LIBM is None:
        yield
        return
    before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    _LIBM.fegetenv(before)
    during = ctypes.create_string_buffer(before.raw, _ENVIRONMENT_BYTES)
    register = ctypes.c_uint32.from_buffer(during, _OFFSET)
    register.value |= _BITS
    _LIBM.fesetenv(during)
    try:
        yield
    finally:
        _LIBM.fesetenv(before)
