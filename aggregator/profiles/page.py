"""The page of one or several profiles: what a training step costs, on which board, and how sure that is."""

from collections.abc import Mapping, Sequence

from aggregator.profiles import plots
from aggregator.profiles.comparison import Entry, entries, failures, faster_than_dense, left_out, medians
from aggregator.report.page import (
    ABSENT,
    Html,
    details,
    element,
    figure,
    join,
    milliseconds,
    number,
    page,
    percent,
    short_percent,
    si,
    table,
    tile,
)
from aggregator.report.plots import Plot
from device_runtime.profile.record import Case, Layers, Profile
from device_runtime.profile.values import Value
from device_runtime.profile.words import soak_sentence

_PICTURED_MAX = 6  # cases whose layers are drawn; the tables have all


def profiles_html_of_one(profile: Profile) -> str:
    """The page of a single profile: what `espalier device profile --html` writes."""
    return profiles_html({profile.subject.model: profile})


def profiles_html(profiles: Mapping[str, Profile]) -> str:
    """The page: self-contained, no script, the same bytes for the same profiles."""
    found = entries(profiles)
    title = " and ".join(dict.fromkeys(p.subject.model for p in profiles.values()))
    header = element(
        "header",
        element("p", "Espalier profile", class_="eyebrow"),
        element("h1", f"{title}: a training step on {_boards(found)}"),
        element("p", _summary(found), class_="summary"),
    )
    sections = [
        header,
        element("dl", *_tiles(found), class_="tiles"),
        _section("How long a step takes", _show("Step time", plots.step_plot(found), _STEP_WORDS, is_wide=True)),
        _soaks(found),
        _layers(found),
        _costs(found),
        _case_table(found, failures(profiles)),
        _median_table(found),
        _machines(profiles),
        _sources(),
    ]
    return page(f"{title}: Espalier profile", join(sections))


_STEP_WORDS = (
    "A point for the median of every repeat; the thick line reaches from p50 to p90 of all steps, the thin one to p99."
    " Hollow points: the verdict is not valid, and the case enters no median and no ratio."
)


def _boards(found: Sequence[Entry]) -> str:
    names = list(dict.fromkeys(e.board for e in found if e.case.verdict.kind != "emulated"))
    if not names:
        return "an emulated processor"
    return names[0] if len(names) == 1 else f"{len(names)} boards"


def _summary(found: Sequence[Entry]) -> str:
    kinds = [e.case.verdict.kind for e in found]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    cases = "1 case" if len(found) == 1 else f"{len(found)} cases"
    emulated = " Emulated cases are shown, and stand for no board." if "emulated" in kinds else ""
    return f"{cases}: {counted}. Every case is one engine at one sparsity in a process of its own.{emulated}"


def _tiles(found: Sequence[Entry]) -> list[Html]:
    first = next((e for e in found if e.case.verdict.may_aggregate), found[0])
    case, roof = first.case, first.profile.roof
    pruned = f"{case.sparsity:.3g} of the weights removed" if case.sparsity else "dense"
    which = f"{first.name}: {case.engine}, {pruned}"
    shown = [
        tile("Training step", f"{milliseconds(case.step.p50 / 1e6)} ms", f"p50 of {which}, batch {case.batch}"),
        tile("GFLOP/s reached", _text(case.rate), f"{percent(_plain(case.share_of_peak))} of the peak here"),
        tile("GFLOP/s at most", _text(roof.compute), f"{roof.compute.source}, threads: {roof.threads}"),
        tile("Bandwidth", f"{_text(roof.bandwidth)} GB/s", roof.bandwidth.source),
        tile("Memory", si(_plain(case.memory.pss), "B"), "PSS of the case's process"),
    ]
    joules = case.energy.net_per_step
    if joules.value is not None:
        shown.append(tile("Energy", f"{_text(joules)} J", f"per step, net, {joules.source}"))
    return shown


def _section(title: str, *content: str) -> Html:
    return element("section", element("h2", title), element("div", *content, class_="stack"))


def _show(title: str, plot: Plot, caption: str, *, is_wide: bool = False) -> Html:
    shown = figure(title, plot.svg, caption, plot.keys)
    return element("div", shown, class_="wide") if is_wide else shown


def _missing(sentence: str) -> Html:
    return element("p", sentence, class_="absent")


def _soaks(found: Sequence[Entry]) -> Html:
    """The long runs, nothing where there was none."""
    parts = [
        _show(
            "Minute by minute", plots.soak_plot(str(index), soak), f"{_title(e)}: {soak_sentence(soak)}.", is_wide=True
        )
        for index, e in enumerate(found)
        if (soak := e.case.soak) is not None and soak.minutes
    ]
    return _section("Without a pause", *parts) if parts else join([])


# --- figures ------------------------------------------------------------------------------------------------------


def _layers(found: Sequence[Entry]) -> Html:
    layered = [e for e in found if e.case.layers is not None]
    if not layered:
        return _section("Where it goes", _missing(f"No layers: {found[0].case.layers_note}."))
    parts: list[str] = []
    for index, e in enumerate(layered[:_PICTURED_MAX]):
        parts.append(_layer_pair(f"{index}", e))
    for e in layered:
        assert e.case.layers is not None, "chosen for having them"
        parts.append(details(f"{_title(e)}: {len(e.case.layers.rows)} rows", _layer_table(e.case.layers)))
    if len(layered) > _PICTURED_MAX:
        parts.append(_missing(f"Drawn are the first {_PICTURED_MAX} of {len(layered)} cases; the tables have all."))
    return _section("Where it goes", *parts)


def _layer_pair(name: str, e: Entry) -> Html:
    bars, roof = plots.layers_plot(name, e), plots.roofline_plot(name, e)
    layers = e.case.layers
    assert layers is not None, "chosen for having them"
    words = (
        f"{_title(e)}. From a short run of its own with onnxruntime's trace; the layers sum to"
        f" {percent(_plain(layers.explained))} of the timed step."
    )
    shown = [_show("Time by layer", bars, words)] if bars else []
    if roof:
        caption = (
            "Each point is a layer's contractions: below the slope the memory limits it, below the flat line the"
            " processor. Caches may serve tensors, which lifts a point above the slope."
        )
        shown.append(_show("Roofline", roof, caption))
    return element("div", *shown, class_="pair")


def _title(e: Entry) -> str:
    return f"{e.name}, {e.case.engine} at sparsity {e.case.sparsity:g}"


def _layer_table(layers: Layers) -> Html:
    head = ("layer", "part", "op", "ms", "share", "FLOP dense", "ideal", "executed", "bytes", "GFLOP/s", "FLOP/B")
    total = _plain(layers.total) or 1.0
    rows = [
        [
            row.layer or ABSENT,
            row.step_part,
            row.op,
            milliseconds((_plain(row.time) or 0) / 1e6),
            percent((_plain(row.time) or 0) / total),
            *(si(_plain(v) or None, "") for v in (row.flops_dense, row.flops_ideal, row.flops_executed)),
            si(_plain(row.tensor_bytes), "B"),
            _text(row.rate),
            _text(row.intensity),
            percent(_plain(row.share_of_roof)),
            row.bound or ABSENT,
        ]
        for row in layers.rows
    ]
    return table((*head, "of roof", "bound by"), rows, words=3)


def _costs(found: Sequence[Entry]) -> Html:
    words = (
        "Three figures that must not be mixed. Dense: every weight counted. Ideal: what a perfect sparse kernel would"
        " need; a possibility, not a saving. Executed: what the kernel that ran did."
    )
    parts = [_show("FLOPs of a step", plots.flops_plot(found), words, is_wide=True)]
    if memory := plots.memory_plot(found):
        caption = "Proportional set size of the case's own process: interpreter, libraries, batches and model."
        parts.append(_show("Memory", memory, caption, is_wide=True))
    else:
        parts.append(_missing("Memory: the kernel gives no proportional set size."))
    return _section("What it costs", *parts)


# --- tables -------------------------------------------------------------------------------------------------------

_CASE_HEAD = (
    "profile", "board", "engine", "verdict", "sparsity", "p50, ms", "p90", "p99", "spread", "GFLOP/s", "of peak",
    "PSS", "update", "J/step", "dense / this",
)  # fmt: skip


def _case_table(found: Sequence[Entry], failed: Sequence[str]) -> Html:
    shown = element("div", table(_CASE_HEAD, [_cells(e) for e in found], words=4), class_="card")
    return _section("Cases", shown, *(_missing(f"Failed: {sentence}") for sentence in failed))


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
        percent(_plain(case.spread)),
        _text(case.rate),
        percent(_plain(case.share_of_peak)),
        si(_plain(case.memory.pss), "B"),
        si(_plain(case.payload.update), "B"),
        _joules(case),
        number(faster_than_dense(e), 2),
    ]


def _joules(case: Case) -> str:
    net = case.energy.net_per_step
    return _text(net) + (" (estimated)" if net.source == "estimated" else "")


def _median_table(found: Sequence[Entry]) -> Html:
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
        shown.append(_missing("No case is valid, so there is no median."))
    if sentences := left_out(found):
        shown.append(element("p", "Left out of the medians:", class_="absent"))
        shown.append(element("ul", *(element("li", s) for s in sentences), class_="absent"))
    return _section("Medians by board and sparsity: valid cases only", *shown)


def _machines(profiles: Mapping[str, Profile]) -> Html:
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
    return _section("Machines and method", *parts)


def _sources() -> Html:
    notes = [
        "Measured: times, memory, counters, temperature, clock, RAPL and INA2xx. Estimated: energy by the PMIC of a"
        " Raspberry Pi 5. Datasheet: limits from a board's file where they could not be measured.",
        "Derived: FLOPs from the artifact's cost table; a layer's bytes from the shapes of its nodes; a layer's time"
        " from onnxruntime's trace, less what tracing adds to every node.",
        f"What a board could not measure is absent ({ABSENT}), never guessed; the JSON file says why.",
        "Download and upload are absent: a profile is taken offline.",
    ]
    items = [element("li", note) for note in notes]
    return element("footer", element("strong", "Where each number comes from"), element("ul", *items))


def _plain(value: Value) -> float | None:
    return value.value


def _text(value: Value) -> str:
    """Three digits."""
    if value.value is None:
        return ABSENT
    return number(value.value, 0 if abs(value.value) >= 99.5 else 1 if abs(value.value) >= 9.95 else 2)
