"""A profile on the terminal: the machine and its doubts, a row per case, and where the time of a step goes."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from device_runtime.profile.record import Case, Layers, Profile
from device_runtime.profile.tally import typical
from device_runtime.profile.values import Value
from device_runtime.profile.words import soak_sentence

LAYER_ROWS = 12
ABSENT = "\N{EN DASH}"
_STYLE = {"valid": "green", "noisy": "yellow", "throttled": "red", "under-voltage": "red", "emulated": "magenta"}


def show(profile: Profile, console: Console) -> None:
    """Print it."""
    _machine(profile, console)
    console.print(_times(profile.cases), _costs(profile.cases))
    for case in profile.cases:
        for reason in case.verdict.reasons:
            console.print(
                f"{_name(case)}: {case.verdict.kind}: {reason}", style=_STYLE[case.verdict.kind], markup=False
            )
    for failure in profile.failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    for case in profile.cases:
        if case.soak is not None and case.soak.minutes:
            console.print(f"{_name(case)}: {soak_sentence(case.soak)}", markup=False)
    for case in profile.cases:
        if case.layers is not None:
            console.print(_layers(f"Where a step goes: {_name(case)}", case.layers))
            console.print(_explained(case.layers), markup=False)
    _notes(profile, console)


def _machine(profile: Profile, console: Console) -> None:
    m, roof = profile.machine, profile.roof
    how = " (by its architecture only)" if m.board_certainty == "architecture" else ""
    board = f"{m.board}{how}" if m.board else "unknown board"
    console.print(f"{board} · {m.model} · {m.architecture} · kernel {m.kernel}", style="bold", markup=False)
    limits = f"{number(roof.compute)} {roof.compute.unit}, {number(roof.bandwidth)} {roof.bandwidth.unit}"
    console.print(f"roofline of {_threads(roof.threads)}: {limits} ({roof.compute.source})", markup=False)
    for doubt in profile.preflight.doubts:
        console.print(f"doubt: {doubt}", style="yellow", markup=False)


def _table(title: str, words: int, *head: str) -> Table:
    """A table that fits a terminal of 80 columns; all but the first `words` columns are numbers."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(head):
        table.add_column(
            name, justify="left" if index < words else "right", no_wrap=True, max_width=18 if not index else None
        )
    return table


def _times(cases: Iterable[Case]) -> Table:
    table = _table("Times in ms", 1, "case", "p50", "p90", "p99", "spread", "load", "serialise", "verdict")
    for c in cases:
        table.add_row(
            _name(c),
            *(milliseconds(ns) for ns in (c.step.p50, c.step.p90, c.step.p99)),
            percent(c.spread),
            *(milliseconds(typical(p)) for p in (c.load, c.serialise)),
            f"[{_STYLE[c.verdict.kind]}]{c.verdict.kind}[/]",
        )
    return table


def _costs(cases: Iterable[Case]) -> Table:
    head = ("case", "FLOP", "ideal", "GFLOP/s", "of peak", "PSS", "update", "J/step")
    table = _table("Cost of a step: FLOP executed, and ideal for its sparsity; bytes", 1, *head)
    for c in cases:
        net = c.energy.net_per_step
        table.add_row(
            _name(c),
            *(scaled(f) for f in (c.flops.executed, c.flops.ideal)),
            number(c.rate),
            percent(c.share_of_peak),
            scaled(c.memory.pss),
            scaled(c.payload.update),
            number(net) + (" est." if net.source == "estimated" else ""),
        )
    return table


def _layers(title: str, layers: Layers) -> Table:
    table = _table(title, 2, "layer", "part", "ms", "share", "GFLOP/s", "FLOP/B", "of roof", "bound")
    total = layers.total.value or 1
    for row in layers.rows[:LAYER_ROWS]:
        table.add_row(
            row.layer or f"({row.step_part})",
            row.step_part,
            milliseconds(row.time.value),
            f"{(row.time.value or 0) / total:.1%}",
            number(row.rate),
            number(row.intensity),
            percent(row.share_of_roof),
            row.bound or ABSENT,
        )
    if rest := layers.rows[LAYER_ROWS:]:
        time = sum(row.time.value or 0 for row in rest)
        table.add_row(f"{len(rest)} more", "", milliseconds(time), f"{time / total:.1%}", *[ABSENT] * 4)
    return table


def _explained(layers: Layers) -> str:
    return (
        f"the layers explain {percent(layers.explained)} of the timed step and "
        f"{percent(layers.explained_interleaved)} of untraced steps in between"
    )


def _notes(profile: Profile, console: Console) -> None:
    """What is absent and why, each reason once."""
    case = profile.cases[0]
    absent: dict[str, list[str]] = {}
    readings = {"energy": case.energy.gross_per_step, "temperature": profile.preflight.temperature}
    readings |= {"frequency": profile.preflight.frequency} | case.counters_per_step
    for name, value in readings.items():
        if value.value is None:
            absent.setdefault(value.note, []).append(name)
    for reason, names in absent.items():
        console.print(f"absent: {', '.join(names)}: {reason}", style="dim", markup=False)
    for name, phase in (("download", case.download), ("upload", case.upload)):
        if phase.source == "absent":
            console.print(f"absent: {name}: {phase.note}", style="dim", markup=False)


def number(value: Value) -> str:
    """Three digits, or the sign for an absent value."""
    if value.value is None:
        return ABSENT
    return f"{value.value:.0f}" if abs(value.value) >= 99.5 else f"{value.value:.3g}"


def percent(value: Value) -> str:
    """A share in percent."""
    return ABSENT if value.value is None else f"{100 * value.value:.1f} %"


def milliseconds(ns: float | None) -> str:
    """Three digits of milliseconds."""
    if ns is None:
        return ABSENT
    ms = ns / 1e6
    return f"{ms:.0f}" if ms >= 99.5 else f"{ms:.3g}"


def scaled(value: Value) -> str:
    """Three digits and a prefix, for counts and bytes."""
    if value.value is None:
        return ABSENT
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value.value >= 0.9995 * factor:
            short = value.value / factor
            return f"{short:.0f} {prefix}" if short >= 99.5 else f"{short:.3g} {prefix}"
    return f"{value.value:g}"


def _name(case: Case) -> str:
    return f"{case.engine} {case.sparsity:g}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
