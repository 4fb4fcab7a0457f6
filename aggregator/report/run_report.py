"""The report of a run: one page that says in words, plots and tables what it reached and what it cost."""

import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aggregator.report import plots, words
from aggregator.report.looks import Fleet, fleet_of
from aggregator.report.page import (
    ABSENT,
    Html,
    details,
    duration,
    element,
    figure,
    flatten,
    is_known,
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
from aggregator.results import RunResult
from device_runtime.store import write_atomic

_OPEN_ROUNDS_MAX = 30


def write_report(folder: Path, result: RunResult, comparisons: Mapping[str, RunResult]) -> Path:
    """Write `report.html` into the run folder; returns its path."""
    path = folder / "report.html"
    write_atomic(path, report_html(result, comparisons).encode())
    return path


def report_html(result: RunResult, comparisons: Mapping[str, RunResult]) -> str:
    """The page: self-contained, no script, the same bytes for the same records."""
    result = msgspec.structs.replace(result, devices=sorted(result.devices, key=lambda d: _natural(d.name)))
    fleet = fleet_of(result)
    header = element(
        "header",
        element("p", "Espalier run report", class_="eyebrow"),
        element("h1", words.title(result)),
        element("p", words.summary(result), class_="summary"),
    )
    sections = [
        header,
        element("dl", *_tiles(result), class_="tiles"),
        _accuracy(result, comparisons),
        _contribution(result, fleet),
        _bytes(result),
        _cost(result, fleet),
        _device_table(result, fleet),
        _comparison_table(result, comparisons),
        _round_table(result),
        _setup(result),
        _sources(result, comparisons),
    ]
    return page(f"{words.title(result)}: Espalier run report", join(sections))


def _natural(name: str) -> list[tuple[int, str]]:
    """device-2 before device-10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]


# --- headline figures ---------------------------------------------------------------------------------------------


def _tiles(result: RunResult) -> list[Html]:
    """At most six figures; one without a value is left out."""
    totals, final, found = result.totals, result.final, []
    if is_known(final.accuracy_sparse):
        note = f"dense {percent(final.accuracy_dense)}" if is_known(final.accuracy_dense) else "on held-out data"
        found.append(tile("Sparse accuracy", percent(final.accuracy_sparse), note))
    elif is_known(final.accuracy_dense):
        found.append(tile("Dense accuracy", percent(final.accuracy_dense), "on held-out data"))
    if pruned := words.pruned(result).removesuffix(" of prunable weights removed"):
        found.append(tile("Weights removed", "none" if pruned == "nothing pruned" else pruned, "of the prunable ones"))
    dense = totals.bytes_up_dense_fp32
    note = f"{percent(totals.bytes_up / dense)} of dense fp32 ({si(dense, 'B')})" if dense else "payload bytes"
    found.append(tile("Uploaded", si(totals.bytes_up, "B"), note))
    found += _device_tiles(result)
    rounds = max(len(result.rounds), 1)
    found.append(tile("Time", duration(totals.wall_s), f"{duration(totals.wall_s / rounds)} a round"))
    return found


def _device_tiles(result: RunResult) -> list[Html]:
    steps = sorted(d.step_ms_p50 for d in result.devices if is_known(d.step_ms_p50))
    peaks = [d.rss_mb_peak for d in result.devices if is_known(d.rss_mb_peak)]
    found = []
    if steps:
        note = f"{milliseconds(steps[0])} to {milliseconds(steps[-1])} ms by device" if len(steps) > 1 else "median"
        found.append(tile("Training step", f"{milliseconds(statistics.median(steps))} ms", note))
    if peaks:
        found.append(tile("Peak memory", f"{number(max(peaks), 0)} MB", "RSS of the hungriest device"))
    return found


# --- figures ------------------------------------------------------------------------------------------------------


def _section(title: str, *content: str) -> Html:
    return element("section", element("h2", title), element("div", *content, class_="stack"))


def _missing(sentence: str) -> Html:
    return element("p", sentence, class_="absent")


def _show(title: str, plot: Plot, caption: str, *, is_wide: bool = False) -> Html:
    shown = figure(title, plot.svg, caption, plot.keys)
    return element("div", shown, class_="wide") if is_wide else shown


def _accuracy(result: RunResult, comparisons: Mapping[str, RunResult]) -> Html:
    if plot := plots.accuracy_plot(result, comparisons):
        caption = "On the held-out set, after every round."
        if any(is_known(r.accuracy_sparse) for r in result.rounds):
            caption += " Sparse: the pruned model, which devices train."
        if any(is_known(r.accuracy_dense) for r in result.rounds):
            caption += " Dense: the whole model, with what pruning left on the server put back."
        if comparisons:
            caption += " Thin lines: comparison runs, each a real run."
        if nobody := words.uploaded_by_nobody(result):
            caption += f" {nobody}"
        return _section("How accurate", _show("Accuracy by round", plot, caption, is_wide=True))
    if plot := plots.loss_plot(result):
        caption = f"Mean loss on the held-out set, after every round. {words.uploaded_by_nobody(result)}".rstrip()
        return _section("How accurate", _show("Loss by round", plot, caption, is_wide=True))
    return _section("How accurate", _missing("Not evaluated: the run had no held-out set."))


def _contribution(result: RunResult, fleet: Fleet) -> Html:
    weight, contribution = plots.weight_plot(result, fleet), plots.contribution_plot(result, fleet)
    if weight is None or contribution is None:
        return _section("Whose update counts", _missing("No round was committed."))
    first = "How much a device's update counts in the mean, after each round; all weights sum to 1."
    second = "How well a device's update points where the weighted mean of all points: 1 along it, 0 across, below 0"
    return _section(
        "Whose update counts",
        element(
            "div",
            _show("Aggregation weight r", weight, first),
            _show("Contribution ψ", contribution, f"{second} against it."),
            class_="pair",
        ),
    )


def _bytes(result: RunResult) -> Html:
    drawn = plots.bytes_plots(result)
    if drawn is None:
        return _section("What travelled", _missing("No round was committed."))
    by_round, summed = drawn
    ours = "Payload bytes of all messages of all devices."
    theirs = " Dashed: the uploads of the same updates as dense fp32, 4 bytes for each parameter."
    return _section(
        "What travelled",
        element(
            "div",
            _show("Bytes by round", by_round, ours + (theirs if result.totals.bytes_up_dense_fp32 else "")),
            _show("Bytes summed over rounds", summed, "The same, added up: what the run cost on the network."),
            class_="pair",
        ),
    )


def _cost(result: RunResult, fleet: Fleet) -> Html:
    parts: list[str] = []
    if flops := plots.flops_plot(result):
        caption = (
            "Three figures that must not be mixed. Dense: every weight counted, pruned or not. Ideal: what a perfect"
            " sparse kernel would need; a possibility, not a saving. Executed: what the kernel that ran did."
        )
        parts.append(_show("FLOPs of training by device", flops, caption, is_wide=True))
    else:
        parts.append(_missing("FLOPs: not counted in this run."))
    lower = []
    if latency := plots.latency_plot(result, fleet):
        each = (
            "One mark for each round, from left to right"
            if plots.latency_is_by_round(result)
            else "Medians over the rounds"
        )
        caption = f"{each}: the point is the median step (p50), the thick line reaches to p90, the thin one to p99."
        lower.append(_show("Latency of a training step", latency, caption))
    if memory := plots.memory_plot(result, fleet):
        lower.append(_show("Peak memory", memory, "Highest resident set of the device's process in the run."))
    is_fleet = len(result.devices) > plots.HALF_DEVICES_MAX
    parts += lower if is_fleet else [element("div", *lower, class_="pair")] if lower else []
    if latency is None:
        parts.append(_missing("Step latency: not measured in this run."))
    return _section("What it cost the devices", *parts)


# --- tables -------------------------------------------------------------------------------------------------------

_DEVICE_HEAD = (
    "device",
    "engine",
    "samples",
    "rounds",
    "weight r",
    "ψ",
    "sparsity",
    "step p50, ms",
    "peak RSS, MB",
    "FLOPs, dense",
    "FLOPs, ideal",
    "FLOPs, executed",
)


def _device_table(result: RunResult, fleet: Fleet) -> Html:
    rows = []
    for d in result.devices:
        dot = element("span", class_="dot", style=f"background: {fleet.looks[d.name].colour}")
        noisy = element("span", " noisy", class_="flag") if d.noisy else ""
        rows.append(
            [
                Html(dot + element("span", d.name, title=d.name) + noisy),
                d.engine,
                f"{d.samples:,}",
                str(d.rounds),
                number(d.weight, 3),
                number(d.contribution, 3),
                short_percent(d.sparsity),
                milliseconds(d.step_ms_p50),
                number(d.rss_mb_peak, 0),
                *(si(count or None, "") for count in (d.flops_dense, d.flops_ideal, d.flops_executed)),
            ]
        )
    kept = [element("p", sentence, class_="absent") for sentence in words.kept_back(result.devices)]
    return _section("Devices", element("div", table(_DEVICE_HEAD, rows, words=2), class_="card"), *kept)


def _comparison_table(result: RunResult, comparisons: Mapping[str, RunResult]) -> Html:
    if not comparisons:
        return Html("")
    head = ("run", "accuracy, sparse", "accuracy, dense", "rounds", "updates", "uploaded", "downloaded", "seconds")
    rows = []
    for name, run in (("this run", result), *comparisons.items()):
        t = run.totals
        rows.append(
            [
                element("strong", name) if run is result else name,
                percent(run.final.accuracy_sparse),
                percent(run.final.accuracy_dense),
                str(len(run.rounds)),
                f"{t.updates_accepted:,}",
                si(t.bytes_up, "B"),
                si(t.bytes_down, "B"),
                number(t.wall_s),
            ]
        )
    return _section("Comparisons", element("div", table(head, rows), class_="card"))


def _round_table(result: RunResult) -> Html:
    head = ("round", "accuracy, sparse", "accuracy, dense", "loss, sparse", "devices", "uploaded", "downloaded", "s")
    rows = [
        [
            str(r.round_index),
            percent(r.accuracy_sparse),
            percent(r.accuracy_dense),
            number(r.loss_sparse, 4),
            str(len(r.devices)),
            si(r.bytes_up, "B"),
            si(r.bytes_down, "B"),
            number(r.wall_s, 2),
        ]
        for r in result.rounds
    ]
    many = len(rows) > _OPEN_ROUNDS_MAX
    return _section("Rounds", details(words.how_many(len(rows), "round"), table(head, rows), is_open=not many))


def _setup(result: RunResult) -> Html:
    settings = flatten(result.settings)
    shown = []
    if settings:
        body = element("div", table(("setting", "value"), list(settings.items()), words=2), class_="settings")
        shown.append(details(words.how_many(len(settings), "setting"), body))
    if result.versions:
        shown.append(
            details(
                "Versions: what ran", table(("name", "version"), list(result.versions.items()), words=2), is_open=True
            )
        )
    sha = result.final.params_sha or ABSENT
    shown.append(element("p", "SHA-256 of the final parameters: ", element("code", sha), class_="absent"))
    return _section("Settings and versions", *shown)


# --- where the numbers come from ----------------------------------------------------------------------------------


def _sources(result: RunResult, comparisons: Mapping[str, RunResult]) -> Html:
    notes = [
        "Measured on the device, and sent with its update: latency of a step (p50, p90, p99) and memory (RSS). What a"
        f" device could not measure is absent ({ABSENT}), never guessed.",
        "Counted by the aggregator: bytes, as the payloads of the messages from and to devices, repeats included,"
        " without the framing of MQTT, TLS or TCP; seconds, from the opening of a round to its commit.",
        "Computed by the aggregator: accuracy and loss, on the held-out set; weights r and"
        " contributions ψ, from the updates.",
        "Derived, not measured: FLOPs, from the shapes of the model, the kept weights and the samples seen (forward"
        " and backward of convolutions and matrix products, a multiply-add is 2); bytes of dense fp32 uploads, as 4"
        " bytes x parameters x accepted updates.",
    ]
    if any(d.noisy is not None for d in result.devices):
        notes.append("Which device is noisy is known because its data were spoiled on purpose; the run is not told.")
    if comparisons:
        notes.append(words.seeds_note(result, comparisons))
    items = [element("li", note) for note in notes]
    return element("footer", element("strong", "Where each number comes from"), element("ul", *items))
