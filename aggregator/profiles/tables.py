"""The tables of a profile's page: cases, layers, medians, machines."""

from collections.abc import Mapping, Sequence

from aggregator.profiles.comparison import Entry, faster_than_dense, left_out, medians
from aggregator.report.page import (
    ABSENT,
    Html,
    details,
    element,
    milliseconds,
    number,
    percent,
    short_percent,
    si,
    table,
)
from aggregator.report.sections import missing, section
from device_runtime.profile.record import Case, Layers, Profile
from device_runtime.profile.values import Value

_CASE_HEAD = (
    "profile", "board", "engine", "verdict", "sparsity", "p50, ms", "p90", "p99", "spread", "GFLOP/s", "of peak",
    "PSS", "update", "J/step", "dense / this",
)  # fmt: skip


def case_table(found: Sequence[Entry], failed: Sequence[str]) -> Html:
    """A row for every case, and the cases that failed."""
    shown = element("div", table(_CASE_HEAD, [_cells(e) for e in found], words=4), class_="card")
    return section("Cases", shown, *(missing(f"Failed: {sentence}") for sentence in failed))


def _cells(e: Entry) -> list[str]:
    case = e.case
    kind = case.verdict.kind
    verdict = kind if kind == "valid" else element("span", kind, class_="flag", title="; ".join(case.verdict.reasons))
    return [
        e.name,
        e.board,
        case.engine,
        verdict,
        short_percent(case.sparsity),
        *(milliseconds(ns / 1e6) for ns in (case.step.p50, case.step.p90, case.step.p99)),
        percent(plain(case.spread)),
        text_of(case.rate),
        percent(plain(case.share_of_peak)),
        si(plain(case.memory.pss), "B"),
        si(plain(case.payload.update), "B"),
        _joules(case),
        number(faster_than_dense(e), 2),
    ]


def _joules(case: Case) -> str:
    net = case.energy.net_per_step
    return text_of(net) + (" (estimated)" if net.source == "estimated" else "")


def median_table(found: Sequence[Entry]) -> Html:
    """A row for every board and sparsity, and what its medians leave out."""
    head = ("board", "model", "engine", "sparsity", "batch", "threads", "profiles", "p50, ms", "lowest", "highest")
    rows = [
        [
            *(str(row[name]) for name in ("board", "model", "engine")),
            f"{row['sparsity']:g}",
            *(str(row[name]) for name in ("batch", "threads", "profiles")),
            *(f"{row[name]:.3g}" for name in ("step_ms_p50", "step_ms_lowest", "step_ms_highest")),
        ]
        for row in medians(found)
    ]
    shown: list[str] = []
    if rows:
        shown.append(element("div", table(head, rows, words=3), class_="card"))
    else:
        shown.append(missing("No case is valid, so there is no median."))
    if sentences := left_out(found):
        shown.append(element("p", "Left out of the medians:", class_="absent"))
        shown.append(element("ul", *(element("li", s) for s in sentences), class_="absent"))
    return section("Medians by board and sparsity: valid cases only", *shown)


def machines(profiles: Mapping[str, Profile]) -> Html:
    """Where each profile was taken, and how."""
    parts = []
    for name, p in profiles.items():
        m, plan = p.machine, p.plan
        rows = {
            "date": p.date,
            "board": f"{m.board or 'unknown'} ({m.board_certainty})",
            "processor": m.model,
            "architecture, kernel": f"{m.architecture}, {m.kernel}, pages of {m.page_size} bytes",
            "emulated": m.emulated or "nothing shows it",
            "hypervisor": m.hypervisor or "none seen",
            "governor": p.preflight.governor or ABSENT,
            "versions": ", ".join(f"{k} {v}" for k, v in m.versions.items()),
            "method": f"{plan.repeats} repeats of at least {plan.seconds:g} s and {plan.steps_min} steps",
            "data": p.subject.data,
            "masks": p.subject.masks,
            "doubts": "; ".join(p.preflight.doubts) or "none",
        }
        body = element("div", table(("what", "value"), list(rows.items()), words=2), class_="settings")
        parts.append(details(f"{name}: {m.model}", body, is_open=len(profiles) == 1))
    return section("Machines and method", *parts)


def layer_table(layers: Layers) -> Html:
    """A row for every part of every layer."""
    head = ("layer", "part", "op", "ms", "share", "FLOP dense", "ideal", "executed", "bytes", "GFLOP/s", "FLOP/B")
    total = plain(layers.total) or 1.0
    rows = [
        [
            row.layer or ABSENT,
            row.step_part,
            row.op,
            milliseconds((plain(row.time) or 0) / 1e6),
            percent((plain(row.time) or 0) / total),
            *(si(plain(v) or None, "") for v in (row.flops_dense, row.flops_ideal, row.flops_executed)),
            si(plain(row.tensor_bytes), "B"),
            text_of(row.rate),
            text_of(row.intensity),
            percent(plain(row.share_of_roof)),
            row.bound or ABSENT,
        ]
        for row in layers.rows
    ]
    return table((*head, "of roof", "bound by"), rows, words=3)


def plain(value: Value) -> float | None:
    """The number, None where it is absent."""
    return value.value


def text_of(value: Value) -> str:
    """The number to three digits, a dash where it is absent."""
    if value.value is None:
        return ABSENT
    return number(value.value, 0 if abs(value.value) >= 99.5 else 1 if abs(value.value) >= 9.95 else 2)
