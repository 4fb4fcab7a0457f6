"""The report of a run: one page that says in words, plots and tables what it reached and what it cost."""

import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aggregator.report import device_plots, round_plots, words
from aggregator.report.looks import Fleet, fleet_of
from aggregator.report.page import (
    ABSENT,
    Html,
    duration,
    element,
    is_known,
    join,
    milliseconds,
    number,
    page,
    percent,
    si,
    tile,
)
from aggregator.report.run_tables import comparison_table, device_table, round_table, setup
from aggregator.report.sections import missing, section, show
from aggregator.results import RunResult
from device_runtime.store import write_atomic


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
        device_table(result, fleet),
        comparison_table(result, comparisons),
        round_table(result),
        setup(result),
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


def _accuracy(result: RunResult, comparisons: Mapping[str, RunResult]) -> Html:
    if plot := round_plots.accuracy_plot(result, comparisons):
        caption = "On the held-out set, after every round."
        if any(is_known(r.accuracy_sparse) for r in result.rounds):
            caption += " Sparse: the pruned model, which devices train."
        if any(is_known(r.accuracy_dense) for r in result.rounds):
            caption += " Dense: the whole model, with what pruning left on the server put back."
        if comparisons:
            caption += " Thin lines: comparison runs, each a real run."
        if nobody := words.uploaded_by_nobody(result):
            caption += f" {nobody}"
        return section("How accurate", show("Accuracy by round", plot, caption, is_wide=True))
    if plot := round_plots.loss_plot(result):
        caption = f"Mean loss on the held-out set, after every round. {words.uploaded_by_nobody(result)}".rstrip()
        return section("How accurate", show("Loss by round", plot, caption, is_wide=True))
    return section("How accurate", missing("Not evaluated: the run had no held-out set."))


def _contribution(result: RunResult, fleet: Fleet) -> Html:
    weight, contribution = round_plots.weight_plot(result, fleet), round_plots.contribution_plot(result, fleet)
    if weight is None or contribution is None:
        return section("Whose update counts", missing("No round was committed."))
    first = "How much a device's update counts in the mean, after each round; all weights sum to 1."
    second = "How well a device's update points where the weighted mean of all points: 1 along it, 0 across, below 0"
    return section(
        "Whose update counts",
        element(
            "div",
            show("Aggregation weight r", weight, first),
            show("Contribution ψ", contribution, f"{second} against it."),
            class_="pair",
        ),
    )


def _bytes(result: RunResult) -> Html:
    drawn = round_plots.bytes_plots(result)
    if drawn is None:
        return section("What travelled", missing("No round was committed."))
    by_round, summed = drawn
    ours = "Payload bytes of all messages of all devices."
    theirs = " Dashed: the uploads of the same updates as dense fp32, 4 bytes for each parameter."
    return section(
        "What travelled",
        element(
            "div",
            show("Bytes by round", by_round, ours + (theirs if result.totals.bytes_up_dense_fp32 else "")),
            show("Bytes summed over rounds", summed, "The same, added up: what the run cost on the network."),
            class_="pair",
        ),
    )


def _cost(result: RunResult, fleet: Fleet) -> Html:
    parts: list[str] = []
    if flops := device_plots.flops_plot(result):
        caption = (
            "Three figures that must not be mixed. Dense: every weight counted, pruned or not. Ideal: what a perfect"
            " sparse kernel would need; a possibility, not a saving. Executed: what the kernel that ran did."
        )
        parts.append(show("FLOPs of training by device", flops, caption, is_wide=True))
    else:
        parts.append(missing("FLOPs: not counted in this run."))
    lower = []
    if latency := device_plots.latency_plot(result, fleet):
        each = (
            "One mark for each round, from left to right"
            if device_plots.latency_is_by_round(result)
            else "Medians over the rounds"
        )
        caption = f"{each}: the point is the median step (p50), the thick line reaches to p90, the thin one to p99."
        lower.append(show("Latency of a training step", latency, caption))
    if memory := device_plots.memory_plot(result, fleet):
        lower.append(show("Peak memory", memory, "Highest resident set of the device's process in the run."))
    is_fleet = len(result.devices) > device_plots.HALF_DEVICES_MAX
    parts += lower if is_fleet else [element("div", *lower, class_="pair")] if lower else []
    if latency is None:
        parts.append(missing("Step latency: not measured in this run."))
    return section("What it cost the devices", *parts)


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
