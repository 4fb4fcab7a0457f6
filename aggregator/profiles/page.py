"""The page of one or several profiles: what a training step costs, on which board, and how sure that is."""

from collections.abc import Mapping, Sequence

from aggregator.profiles import plots
from aggregator.profiles.comparison import Entry, entries, failures
from aggregator.profiles.tables import case_table, layer_table, machines, median_table, plain, text_of
from aggregator.report.page import (
    ABSENT,
    Html,
    details,
    element,
    join,
    milliseconds,
    page,
    percent,
    si,
    tile,
)
from aggregator.report.sections import missing, section, show
from device_runtime.profile.record import Profile
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
        section("How long a step takes", show("Step time", plots.step_plot(found), _STEP_WORDS, is_wide=True)),
        _soaks(found),
        _layers(found),
        _costs(found),
        case_table(found, failures(profiles)),
        median_table(found),
        machines(profiles),
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
        tile("GFLOP/s reached", text_of(case.rate), f"{percent(plain(case.share_of_peak))} of the peak here"),
        tile("GFLOP/s at most", text_of(roof.compute), f"{roof.compute.source}, threads: {roof.threads}"),
        tile("Bandwidth", f"{text_of(roof.bandwidth)} GB/s", roof.bandwidth.source),
        tile("Memory", si(plain(case.memory.pss), "B"), "PSS of the case's process"),
    ]
    joules = case.energy.net_per_step
    if joules.value is not None:
        shown.append(tile("Energy", f"{text_of(joules)} J", f"per step, net, {joules.source}"))
    return shown


def _soaks(found: Sequence[Entry]) -> Html:
    """The long runs, nothing where there was none."""
    parts = [
        show(
            "Minute by minute", plots.soak_plot(str(index), soak), f"{_title(e)}: {soak_sentence(soak)}.", is_wide=True
        )
        for index, e in enumerate(found)
        if (soak := e.case.soak) is not None and soak.minutes
    ]
    return section("Without a pause", *parts) if parts else join([])


# --- figures ------------------------------------------------------------------------------------------------------


def _layers(found: Sequence[Entry]) -> Html:
    layered = [e for e in found if e.case.layers is not None]
    if not layered:
        return section("Where it goes", missing(f"No layers: {found[0].case.layers_note}."))
    parts: list[str] = []
    for index, e in enumerate(layered[:_PICTURED_MAX]):
        parts.append(_layer_pair(f"{index}", e))
    for e in layered:
        assert e.case.layers is not None, "chosen for having them"
        parts.append(details(f"{_title(e)}: {len(e.case.layers.rows)} rows", layer_table(e.case.layers)))
    if len(layered) > _PICTURED_MAX:
        parts.append(missing(f"Drawn are the first {_PICTURED_MAX} of {len(layered)} cases; the tables have all."))
    return section("Where it goes", *parts)


def _layer_pair(name: str, e: Entry) -> Html:
    bars, roof = plots.layers_plot(name, e), plots.roofline_plot(name, e)
    layers = e.case.layers
    assert layers is not None, "chosen for having them"
    words = (
        f"{_title(e)}. From a short run of its own with onnxruntime's trace; the layers sum to"
        f" {percent(plain(layers.explained))} of the timed step."
    )
    shown = [show("Time by layer", bars, words)] if bars else []
    if roof:
        caption = (
            "Each point is a layer's contractions: below the slope the memory limits it, below the flat line the"
            " processor. Caches may serve tensors, which lifts a point above the slope."
        )
        shown.append(show("Roofline", roof, caption))
    return element("div", *shown, class_="pair")


def _title(e: Entry) -> str:
    return f"{e.name}, {e.case.engine} at sparsity {e.case.sparsity:g}"


def _costs(found: Sequence[Entry]) -> Html:
    words = (
        "Three figures that must not be mixed. Dense: every weight counted. Ideal: what a perfect sparse kernel would"
        " need; a possibility, not a saving. Executed: what the kernel that ran did."
    )
    parts = [show("FLOPs of a step", plots.flops_plot(found), words, is_wide=True)]
    if memory := plots.memory_plot(found):
        caption = "Proportional set size of the case's own process: interpreter, libraries, batches and model."
        parts.append(show("Memory", memory, caption, is_wide=True))
    else:
        parts.append(missing("Memory: the kernel gives no proportional set size."))
    return section("What it costs", *parts)


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
