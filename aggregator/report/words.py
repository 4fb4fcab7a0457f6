"""The run in words: its title, one sentence for what it reached, and what its comparisons share with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aggregator.report.page import ABSENT, is_known, number, percent, short_percent
from aggregator.results import UPLOADED_BY_NOBODY, DeviceSummary, RunResult

_NAMED_MAX = 3


def summary(result: RunResult) -> str:
    """The run in one sentence; what was not measured is left out."""
    scale = f"{how_many(len(result.devices), 'device')}, {how_many(len(result.rounds), 'round')}"
    clauses = [
        ", ".join(filter(None, (scale, pruned(result)))) + (f": {reached}" if (reached := _reached(result)) else "")
    ]
    if result.totals.bytes_up_dense_fp32:
        ratio = result.totals.bytes_up / result.totals.bytes_up_dense_fp32
        clauses.append(f"{percent(ratio)} of the bytes of dense fp32 uploads")
    if noise := _noise(result.devices):
        clauses.append(noise)
    return "; ".join(clauses) + "."


def how_many(count: int, noun: str) -> str:
    """A count and its noun in the right number."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def pruned(result: RunResult) -> str:
    """What share of the prunable weights is gone, a span where devices differ; empty without devices."""
    shares = sorted({short_percent(d.sparsity) for d in result.devices}, key=lambda s: float(s.removesuffix(" %")))
    if not shares:
        return ""
    if shares == ["0 %"]:
        return "nothing pruned"
    span = shares[0] if len(shares) == 1 else f"{shares[0].removesuffix(' %')} to {shares[-1]}"
    return f"{span} of prunable weights removed"


def _reached(result: RunResult) -> str:
    sparse, dense = result.final.accuracy_sparse, result.final.accuracy_dense
    if is_known(sparse):
        return f"sparse model {percent(sparse)} accurate" + (f", dense {percent(dense)}" if is_known(dense) else "")
    if is_known(dense):
        return f"dense model {percent(dense)} accurate"
    loss = result.rounds[-1].loss_sparse if result.rounds else None
    return f"held-out loss of the sparse model {loss:.4g}" if is_known(loss) else ""


def _noise(devices: Sequence[DeviceSummary]) -> str:
    """Whether the devices known to be noisy ended below all others."""
    noisy, clean = [d for d in devices if d.noisy], [d for d in devices if not d.noisy]
    if not noisy or not clean:
        return ""
    below = max(d.weight for d in noisy) < min(d.weight for d in clean)
    if len(noisy) == 1:
        verb = "has" if below else "does not have"
        by_samples = noisy[0].samples / max(sum(d.samples for d in devices), 1)
        both = f"{number(noisy[0].weight, 3)}; by samples alone {number(by_samples, 3)}"
        return f"the noisy device {noisy[0].name} {verb} the lowest weight ({both})"
    names = [d.name for d in noisy]
    which = f" {', '.join(names[:-1])} and {names[-1]}" if len(names) <= _NAMED_MAX else ""
    who = f"the noisy devices{which}" if which else f"the {len(noisy)} noisy devices"
    return f"{who} {'have' if below else 'do not all have'} the lowest weights"


def uploaded_by_nobody(result: RunResult) -> str:
    """What an accuracy of the aggregator's model cannot say where every device keeps a part of it; else empty."""
    names = result.final.uploaded_by_nobody
    return f"No device uploaded {_listed(names)}: {UPLOADED_BY_NOBODY}." if names else ""


def kept_back(devices: Sequence[DeviceSummary]) -> list[str]:
    """A sentence for every set of parameters that devices keep for themselves."""
    keepers: dict[tuple[str, ...], list[str]] = {}
    for device in devices:
        if device.kept_back:
            keepers.setdefault(tuple(device.kept_back), []).append(device.name)
    return [
        f"{_listed(names)} {'keeps' if len(names) == 1 else 'keep'} {_listed(kept)} and never "
        f"{'uploads' if len(names) == 1 else 'upload'} {'it' if len(kept) == 1 else 'them'}."
        for kept, names in sorted(keepers.items())
    ]


def _listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def title(result: RunResult) -> str:
    """What the page is called: the run folder and the model."""
    folder, model = setting(result, "run", "folder"), setting(result, "model", "name")
    name = Path(folder).name if isinstance(folder, str) else ""
    return ", ".join(str(part) for part in (name, model) if part) or "Run"


def setting(result: RunResult, section: str, key: str) -> object:
    """One setting, None where the record has none."""
    inner = result.settings.get(section)
    return inner.get(key) if isinstance(inner, Mapping) else None


def seeds_note(result: RunResult, comparisons: Mapping[str, RunResult]) -> str:
    """Whether the comparisons drew from the same seed, as far as their settings say."""
    ours = setting(result, "run", "seed")
    seeds = {name: setting(run, "run", "seed") for name, run in comparisons.items()}
    other = [f"{name} (seed {ABSENT if seed is None else seed})" for name, seed in seeds.items() if seed != ours]
    if ours is None or other:
        named = f": {', '.join(other)}" if other else ""
        mine = "unknown" if ours is None else str(ours)
        return f"Comparisons are runs of their own, not all known to be at this run's seed ({mine}){named}."
    return f"Comparisons are runs of their own at the same seed ({ours})."
