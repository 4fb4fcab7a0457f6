"""How far a run is, told beside its ledger: `RUN/committed.json`, by which a start sees that the ledger has gone back.

It is written after each commit is on disk, so it is never ahead of a ledger in good order; one round behind, where a
process ended in between.
"""

from pathlib import Path

import msgspec

from aggregator.ledger import Ledger
from aggregator.ledger_faults import RECOVERY
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError

_NAME = "committed.json"
# What is written after the ledger knows of the run, by runs of before as well.
_LEFT_BY_A_RUN = (_NAME, "settings.json", "result.json", "models")


class Witness(msgspec.Struct, frozen=True):
    """The run, its last committed round and the blob of its state; round 0 has none."""

    run_id: str
    round_index: int
    state_sha: str


def write_witness(folder: Path, ledger: Ledger) -> None:
    """Tell how far the ledger is, which must be on disk. A command that goes back in the ledger tells it before."""
    run_id, (round_index, state_sha) = ledger.setting("run_id") or "", ledger.last_committed() or (0, "")
    write_atomic(folder / _NAME, msgspec.json.encode(Witness(run_id, round_index, state_sha)))


def open_ledger(folder: Path, *, read_only: bool = False) -> Ledger:
    """The ledger of the run in `folder`; refused where it knows less of the run than lies beside it.

    A ledger that is away or empty is refused before SQLite sees it, which would make one anew and remove what its
    write-ahead file still holds. Raises UsageError with the way to recover.
    """
    path, seen = folder / "ledger.sqlite", _read(folder)  # before the ledger, which a running aggregator moves on
    left = [name for name in _LEFT_BY_A_RUN if (folder / name).exists()]
    if left and (not path.exists() or path.stat().st_size == 0):
        raise _refusal(path, f"is {'empty' if path.exists() else 'missing'}, and {left[0]} beside it is of a run")
    ledger = Ledger(path, read_only=read_only)
    try:
        _refuse_gone_back(ledger, seen, left)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _refuse_gone_back(ledger: Ledger, seen: Witness | None, left: list[str]) -> None:
    run_id, (round_index, state_sha) = ledger.setting("run_id"), ledger.last_committed() or (0, "")
    if ledger.setting("settings") is None and left:  # they are its first row, before its id
        raise _refusal(ledger.path, f"holds no run, and {left[0]} beside it is of one")
    if seen is None:
        return
    if run_id != seen.run_id:
        raise _refusal(ledger.path, f"is of run {run_id}, and {_NAME} beside it of run {seen.run_id}")
    if round_index < seen.round_index:
        raise _refusal(ledger.path, f"ends with round {round_index}, and round {seen.round_index} was committed")
    if round_index == seen.round_index and state_sha != seen.state_sha:
        raise _refusal(ledger.path, f"has another state after round {round_index} than was committed")


def _read(folder: Path) -> Witness | None:
    """None for a run that has no witness yet."""
    path = folder / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Witness)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read ({error}): put back a copy, or remove it if the ledger beside it is known "
            "to be whole."
        ) from error


def _refusal(path: Path, what: str) -> UsageError:
    return UsageError(f"the ledger {str(path)!r} {what}: it was lost or replaced; {RECOVERY}.")
