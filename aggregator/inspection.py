"""What can be told of a run from its ledger, while it goes on or after: rows for a table or for JSON."""

from pathlib import Path

import msgspec

from aggregator.ledger_faults import faults_told
from aggregator.profiles.kept import read_kept
from aggregator.results import RoundResult
from aggregator.settings import RoundsSection
from aggregator.witness import open_ledger
from device_runtime.wire.errors import UsageError

Row = dict[str, object]


class _Counted(msgspec.Struct, frozen=True):
    """What status needs of a run's settings, of whichever version they are."""

    rounds: RoundsSection


def run_status(folder: Path) -> Row:
    """One row about the whole run. Raises UsageError when the folder holds no run."""
    ledger = open_ledger(folder, read_only=True)
    stored = ledger.setting("settings")
    if stored is None:
        raise UsageError(f"the ledger in {str(folder)!r} holds no run yet.")
    with faults_told(ledger.path):
        settings = msgspec.json.decode(stored, type=_Counted)
    results = ledger.results(RoundResult)
    committed = len(results)
    under_way = ledger.opened_round(committed + 1)
    traffic = [both for per_round in ledger.traffic().values() for both in per_round.values()]
    counts = ledger.update_counts()
    return {
        "run": ledger.setting("run_id"),
        "rounds_committed": committed,
        "rounds_in_all": settings.rounds.count,
        "accepted_in_round_under_way": None if under_way is None else len(under_way.accepted),
        "assigned_in_round_under_way": None if under_way is None else len(under_way.assignments),
        "accuracy_dense": results[-1].accuracy_dense if results else None,
        "accuracy_sparse": results[-1].accuracy_sparse if results else None,
        "updates_accepted": counts.get("accepted", 0),
        "updates_rejected": counts.get("rejected", 0),
        "members": sum(member for _, member, _, _ in ledger.devices()),
        "bytes_up": sum(up for up, _ in traffic),
        "bytes_down": sum(down for _, down in traffic),
    }


def round_rows(folder: Path) -> list[Row]:
    """One row per committed round."""
    return [
        {
            "round_index": r.round_index,
            "accuracy_dense": r.accuracy_dense,
            "accuracy_sparse": r.accuracy_sparse,
            "devices": len(r.devices),
            "sparsity_lowest": min((d.sparsity for d in r.devices), default=None),
            "sparsity_highest": max((d.sparsity for d in r.devices), default=None),
            "bytes_up": r.bytes_up,
            "bytes_down": r.bytes_down,
            "wall_s": r.wall_s,
        }
        for r in open_ledger(folder, read_only=True).results(RoundResult)
    ]


def device_rows(folder: Path) -> list[Row]:
    """One row per device ever seen; weight, contribution and sparsity are those of its last round.

    `profile` is the verdict of the profile that the run keeps of it, None where there is none.
    """
    ledger = open_ledger(folder, read_only=True)
    kept = read_kept(folder)
    last = {d.name: d for r in ledger.results(RoundResult) for d in r.devices}
    traffic = ledger.traffic()
    rows: list[Row] = []
    for hello, member, reason, seen in ledger.devices():
        record = last.get(hello.device)
        sent = [per_round.get(hello.device, (0, 0)) for per_round in traffic.values()]
        rows.append(
            {
                "device": hello.device,
                "member": member,
                "why_not": reason or None,
                "engines": " ".join(hello.engines),
                "samples": hello.sample_count,
                "weight": record.weight if record else None,
                "contribution": record.contribution if record else None,
                "sparsity": record.sparsity if record else None,
                "step_ms_p50": record.step_ms_p50 if record else None,
                "rss_mb_peak": record.rss_mb_peak if record else None,
                "bytes_up": sum(up for up, _ in sent),
                "bytes_down": sum(down for _, down in sent),
                "kept_back": " ".join(record.kept_back) or None if record else None,
                "profile": kept[hello.device].verdict if hello.device in kept else None,
                "last_hello_utc": seen,
            }
        )
    return rows
