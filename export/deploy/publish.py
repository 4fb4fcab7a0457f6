"""A file gets its name only after it was proven: written beside, verified against its source, then renamed."""

import os
import tempfile
from pathlib import Path

import msgspec

from device_runtime.wire.errors import UsageError
from export.deploy.runners import open_runner
from export.deploy.samples import DataFile
from export.deploy.source import Source
from export.deploy.verification import Tolerance, Verification, verify


def publish(
    data: bytes,
    out: Path,
    source: Source,
    *,
    samples: DataFile | None,
    tolerance: Tolerance | None = None,
    seconds: float = 0.5,
) -> Verification:
    """Write `data` to `out` if it computes what `source` does; gives the comparison (a: source, b: file).

    Raises UsageError when it does not, and then leaves no file under the name `out`, not even an earlier one that a
    script would take for the new. Raises it too, before anything is compared, for a folder that cannot be written.
    """
    beside = out.with_name(f".{out.name}.unverified")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "source.onnx"
            reference.write_bytes(source.as_onnx())
            beside.write_bytes(data)
            _check_runs(beside, out)
            found = verify(reference, beside, samples, tolerance=tolerance, seconds=seconds)
        found = msgspec.structs.replace(found, b=msgspec.structs.replace(found.b, file=out.name))
        if found.failures:
            out.unlink(missing_ok=True)
            raise UsageError(
                f"{out.name} does not compute what {source.provenance.model} does ({'; '.join(found.failures)}, "
                f"on {found.samples}): nothing was written"
            )
        os.replace(beside, out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror or error}): choose another place") from error
    finally:
        beside.unlink(missing_ok=True)
    return found


def _check_runs(beside: Path, out: Path) -> None:
    """A file its runtime refuses has failed before it is compared."""
    try:
        open_runner(beside)
    except UsageError:
        out.unlink(missing_ok=True)
        raise
