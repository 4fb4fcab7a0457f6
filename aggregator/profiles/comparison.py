"""Profiles of several boards side by side: every case as a row, and medians over the valid ones only.

An emulated case says nothing about a board, and a throttled, under-volted or noisy one too little: all are shown with
their verdict, and none enters a median or a ratio.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.profile.record import Case, Profile, read_profile
from device_runtime.wire.errors import UsageError

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Entry:
    """One case of one profile, with the profile's name in this comparison."""

    name: str
    profile: Profile
    case: Case

    @property
    def board(self) -> str:
        """The board's id where it was recognised, else what the processor calls itself."""
        machine = self.profile.machine
        known = machine.board if machine.board_certainty == "board" else ""
        return known or machine.model or machine.architecture

    @property
    def key(self) -> tuple[str, str, int, int, str, float]:
        """Cases with the same key measured the same thing on the same kind of board."""
        case = self.case
        return self.board, self.profile.subject.model, case.batch, case.threads, case.engine, case.sparsity


def read_profiles(paths: Sequence[Path]) -> dict[str, Profile]:
    """The profiles by name: the file's, with its folder's where two files share one.

    Raises UsageError for a file that is no profile, and for one that is given twice.
    """
    if len({p.resolve() for p in paths}) != len(paths):
        raise UsageError("a profile is given twice: a comparison with itself says nothing.")
    stems = [p.stem for p in paths]
    names = [p.stem if stems.count(p.stem) == 1 else f"{p.resolve().parent.name}/{p.stem}" for p in paths]
    names = [n if names.count(n) == 1 else str(p) for n, p in zip(names, paths, strict=True)]
    return {name: read_profile(path) for name, path in zip(names, paths, strict=True)}


def entries(profiles: Mapping[str, Profile]) -> list[Entry]:
    """All cases, in the order of the profiles."""
    return [Entry(name, profile, case) for name, profile in profiles.items() for case in profile.cases]


def case_rows(found: Sequence[Entry]) -> list[Row]:
    """One row per case, numbers as numbers, absent ones None."""
    return [_row(e) for e in found]


def _row(e: Entry) -> Row:
    c = e.case
    return {
        "profile": e.name,
        "board": e.board,
        "model": e.profile.subject.model,
        "engine": c.engine,
        "sparsity": c.sparsity,
        "threads": c.threads,
        "batch": c.batch,
        "verdict": c.verdict.kind,
        "step_ms_p50": c.step.p50 / 1e6,
        "step_ms_p90": c.step.p90 / 1e6,
        "step_ms_p99": c.step.p99 / 1e6,
        "spread": c.spread.value,
        "gflops_per_s": c.rate.value,
        "share_of_peak": c.share_of_peak.value,
        "pss_bytes": c.memory.pss.value,
        "update_bytes": c.payload.update.value,
        "joules_per_step": c.energy.net_per_step.value,
        "joules_source": c.energy.net_per_step.source,
        "layers_explained": c.layers.explained.value if c.layers else None,
        "faster_than_dense": faster_than_dense(e),
    }


def faster_than_dense(e: Entry) -> float | None:
    """The dense step's p50 over this one's, of the same profile and engine; None unless both are valid."""
    dense = next((c for c in e.profile.cases if c.engine == e.case.engine and c.sparsity == 0), None)
    if dense is None or not dense.verdict.may_aggregate or not e.case.verdict.may_aggregate:
        return None
    return dense.step.p50 / e.case.step.p50


def medians(found: Sequence[Entry]) -> list[Row]:
    """Over valid cases of the same board, model, batch, threads, engine and sparsity, by board and sparsity."""
    groups: dict[tuple[str, str, int, int, str, float], list[Case]] = defaultdict(list)
    for e in found:
        if e.case.verdict.may_aggregate:
            groups[e.key].append(e.case)
    rows = []
    for (board, model, batch, threads, engine, sparsity), cases in sorted(groups.items()):
        steps = [c.step.p50 / 1e6 for c in cases]
        rates = [c.rate.value for c in cases if c.rate.value is not None]
        rows.append(
            Row(
                board=board,
                model=model,
                batch=batch,
                threads=threads,
                engine=engine,
                sparsity=sparsity,
                profiles=len(cases),
                step_ms_p50=statistics.median(steps),
                step_ms_lowest=min(steps),
                step_ms_highest=max(steps),
                gflops_per_s=statistics.median(rates) if rates else None,
            )
        )
    return rows


def left_out(found: Sequence[Entry]) -> list[str]:
    """Which cases enter no median, and why, a sentence each."""
    return [
        f"{e.name}, {e.case.engine} at sparsity {e.case.sparsity:g}: {e.case.verdict.kind}"
        + (f" ({'; '.join(e.case.verdict.reasons)})" if e.case.verdict.reasons else "")
        for e in found
        if not e.case.verdict.may_aggregate
    ]


def failures(profiles: Mapping[str, Profile]) -> list[str]:
    """Cases that could not be run, a sentence each."""
    return [f"{name}, {failure}" for name, profile in profiles.items() for failure in profile.failures]
