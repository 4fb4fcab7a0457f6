"""A process for each case, so that cold is cold, memory is the case's own and a crash ends the case alone.

The job goes in as JSON on standard input; out come lines of JSON: progress, then one result or one error.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

import msgspec

from device_runtime.profile.case import Progress, run_case
from device_runtime.profile.record import Case, Roof
from device_runtime.profile.roofline import measure_roof
from device_runtime.profile.tally import CaseJob
from device_runtime.wire.errors import EngineError, EspalierError


class RoofJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Measure the limits of the roofline."""

    threads: int
    seconds: float


Job = CaseJob | RoofJob
_NOT_STARTED = (126, 127)  # as QEMU's user mode ends a process whose program is not of this machine


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a worker: what it is at, or what came of it."""

    doing: str = ""
    share: float = 0.0
    case: Case | None = None
    roof: Roof | None = None
    error: str = ""


def carry_out(job: Job, progress: Progress) -> Case | Roof:
    """Carry out a job in this process."""
    if isinstance(job, RoofJob):
        return measure_roof(job.threads, job.seconds, lambda share: progress("roofline", share))
    return run_case(job, progress)


def in_own_process(job: Job, progress: Progress) -> Case | Roof:
    """Carry out a job in a fresh process; in this one, and saying so, where no process of this Python can be started
    (under QEMU's user mode). Raises EngineError with its error, or with how it ended."""
    command = [sys.executable, "-m", "device_runtime.profile.worker"]
    with tempfile.TemporaryFile("w+") as complaints:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
        except OSError:
            return _here(job, progress)
        with process:
            try:
                last = _converse(process, job, progress)
                status = process.wait()
            finally:
                process.kill()
        complaints.seek(0)
        words = complaints.read()
        if status in _NOT_STARTED and last == Line() and not words:
            return _here(job, progress)
        return _outcome(last, status, words)


def _converse(process: "subprocess.Popen[bytes]", job: Job, progress: Progress) -> Line:
    """Give the job, hear the progress; the last line."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; its status says how
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
    last = Line()
    for raw in process.stdout:
        last = msgspec.json.decode(raw, type=Line)
        if last.doing:
            progress(last.doing, last.share)
    return last


def _here(job: Job, progress: Progress) -> Case | Roof:
    return carry_out(msgspec.structs.replace(job, is_fresh=False) if isinstance(job, CaseJob) else job, progress)


def _outcome(last: Line, status: int, complaints: str) -> Case | Roof:
    found = last.case or last.roof
    if found is not None:
        return found
    if last.error:
        raise EngineError(last.error)
    words = (complaints.strip().splitlines() or [f"exit status {status}"])[-1]
    if status < 0:
        hint = ": memory may be short" if -status == signal.SIGKILL else ""
        words = f"signal {-status} ({signal.Signals(-status).name}){hint}"
    raise EngineError(f"the process that ran the case ended early, at {last.doing or 'its start'!r}: {words}")


def main(write: Callable[[bytes], None], job: Job) -> int:
    """Carry out the job, writing lines; gives the exit status."""
    try:
        found = carry_out(job, lambda doing, share: write(_line(Line(doing=doing, share=share))))
    except EspalierError as error:
        write(_line(Line(error=str(error))))
        return 2
    write(_line(Line(case=found) if isinstance(found, Case) else Line(roof=found)))
    return 0


def _line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


if __name__ == "__main__":

    def _to_stdout(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    sys.exit(main(_to_stdout, msgspec.json.decode(sys.stdin.buffer.read(), type=Job)))
