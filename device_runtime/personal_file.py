"""Where a device keeps its personal tensors: one file of their values, one of what the last training began from.

`personal.safetensors` holds the values after the last training. `personal-before.safetensors` holds those it began
from, and names the work; it is written first. So a device that is killed anywhere and given the same work again begins
from the same values, never from values that have already advanced.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from device_runtime.personal import Choice, Personal, personal_names, work_of
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.messages import Assignment
from device_runtime.wire.support import FloatArray, sha256_hex

PERSONAL_FILE = "personal.safetensors"
BEFORE_FILE = "personal-before.safetensors"
_METADATA_KEY = "espalier"  # one key: the library does not keep the order of several, and equal values are equal bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A file's tensors, and the work they belong to ("" in a file of another program)."""

    values: dict[str, FloatArray]
    work: str


class PersonalFiles:
    """The personal tensors of one device, durable in its folder."""

    def __init__(self, folder: Path, choice: Choice) -> None:
        self._choice = choice
        self._own, self._before = folder / PERSONAL_FILE, folder / BEFORE_FILE

    def check(self) -> None:
        """Raise UsageError for a file that is damaged, before it is needed."""
        if self._choice:
            _read(self._own, _MEND_OWN)
            _read(self._before, _MEND_BEFORE)

    def fits(self, kept_back: tuple[str, ...], chosen: Choice) -> bool:
        """Whether an offer of an earlier life, made when `chosen` was personal, keeps back what is personal now.

        Which tensors "last" names only an artifact tells: then the settings must be what they were.
        """
        return self._choice == chosen if isinstance(self._choice, str) else set(self._choice) <= set(kept_back)

    def begin(self, assignment: Assignment, manifest: Manifest) -> Personal:
        """What the work of an assignment begins from: the same at every call until other work was kept.

        Raises UsageError as `personal_names`, for a damaged file, and for one with tensors of another model's shape.
        """
        names = personal_names(self._choice, manifest)
        if not names:
            return Personal()
        path, stored = self._before, _read(self._before, _MEND_BEFORE)
        if stored is None or stored.work != work_of(assignment):
            path, stored = self._own, _read(self._own, _MEND_OWN)
        values = {} if stored is None else {n: stored.values[n] for n in names if n in stored.values}
        shapes = manifest.shapes()
        for name, value in values.items():
            if value.shape != shapes[name]:
                raise UsageError(
                    f"{path} holds {name!r} of the shape {value.shape}, the model has {shapes[name]}: it is another "
                    "model's; move it away, or give the device another folder."
                )
        return Personal(names, values)

    def keep(self, assignment: Assignment, before: Personal, after: Personal) -> None:
        """Make durable what the work began from, then what it ended with. Raises UsageError where nothing can be
        written."""
        if after.names:
            work = work_of(assignment)
            write_atomic(self._before, _encode(before, work))
            write_atomic(self._own, _encode(after, work))


_MEND_OWN = "move it away to begin anew with the values of the next assignment, or put a copy of it back"
_MEND_BEFORE = f"delete it, and training goes on from {PERSONAL_FILE}"


def _encode(personal: Personal, work: str) -> bytes:
    metadata = {"work": work, "sha256": _digest(dict(personal.values))}
    data: bytes = safetensors.numpy.save(dict(personal.values), {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    return data


def _digest(values: dict[str, FloatArray]) -> str:
    """A SHA-256 of names, shapes and values, to tell a file that rotted."""
    return sha256_hex(b"".join(f"{n}:{v.shape}:".encode() + v.tobytes() for n, v in sorted(values.items())))


def _read(path: Path, mend: str) -> _Stored | None:
    """A file's content, None when there is none. Raises UsageError with `mend` for a damaged one."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    except FileNotFoundError:
        return None
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}): {mend}.") from error
    if fault := _fault(values, metadata):
        raise UsageError(f"{path} is damaged ({fault}): {mend}.")
    return _Stored(values, str(metadata.get("work", "")))


def _fault(values: dict[str, FloatArray], metadata: object) -> str:
    """What is wrong with a file's content, "" for nothing. A file of another program has no digest."""
    if not isinstance(metadata, dict):
        return "its metadata are not ours"
    for name, value in values.items():
        if value.dtype != np.float32:
            return f"{name!r} is {value.dtype}, not float32"
        if not np.isfinite(value).all():
            return f"{name!r} has values that are not finite"
    if metadata.get("sha256", digest := _digest(values)) != digest:
        return "its values are not those that were written"
    return ""
