"""Whether a case's numbers may stand for the board: valid, or the gravest reason why not.

Emulated outweighs under-voltage, which outweighs throttled, which outweighs noisy. All reasons are kept.
"""

import statistics
from collections.abc import Sequence

from device_runtime.metering.thermal import UNDER_VOLTAGE
from device_runtime.profile.methodology import WITHIN
from device_runtime.profile.record import Repeat, Verdict, VerdictKind
from device_runtime.profile.values import Value

CROWDED = 0.1  # of the threads' time


def judge(
    emulated: str,
    repeats: Sequence[Repeat],
    spread: Value,
    *,
    threads: int,
    cores: int,
    is_stable: bool,
    are_finite: bool = True,
) -> Verdict:
    """The verdict on a case of so many threads on a machine of so many cores; `spread` is of the repeats' medians."""
    found: list[tuple[VerdictKind, str]] = []
    if emulated:
        found.append(("emulated", emulated))
    events = list(dict.fromkeys(e for r in repeats for e in r.events))
    if UNDER_VOLTAGE in events:
        found.append(("under-voltage", "the supply fell below its limit during the repeats: use a stronger one"))
    if slowed := [e for e in events if e != UNDER_VOLTAGE]:
        found.append(("throttled", f"during the repeats: {', '.join(slowed)}; cool the board"))
    if spread.value is None:
        found.append(("noisy", f"repeats cannot be compared: {spread.note}"))
    elif spread.value > WITHIN:
        found.append(("noisy", f"the repeats lie {spread.value:.1%} apart, more than {WITHIN:.0%}: stop other work"))
    found += [("noisy", reason) for reason in crowding(repeats, threads=threads, cores=cores)]
    if not is_stable:
        found.append(("noisy", "the warm-up ended before step times were stable"))
    if not are_finite:
        found.append(("noisy", "the loss was no longer finite: times of such numbers are not typical"))
    kind: VerdictKind = found[0][0] if found else "valid"
    return Verdict(kind=kind, reasons=tuple(reason for _, reason in found))


def crowding(repeats: Sequence[Repeat], *, threads: int, cores: int) -> list[str]:
    """Whether others took time from our threads, in the middle repeat: stable repeats can all be equally disturbed."""
    found = []
    others, stolen = _middle([r.others for r in repeats]), _middle([r.stolen for r in repeats])
    if others is not None and others - (cores - threads) > CROWDED * threads:
        found.append(f"other processes kept {others:.1f} of {cores} cores busy, beside {threads} of ours: stop them")
    if stolen is not None and stolen > CROWDED * threads:
        found.append(f"the host of this virtual machine kept {stolen:.1f} cores busy with others")
    return found


def _middle(values: Sequence[Value]) -> float | None:
    known = [v.value for v in values if v.value is not None]
    return statistics.median(known) if known else None
