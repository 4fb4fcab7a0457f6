"""The tables of a run's page: its devices, its rounds, the runs it is compared with, and how it was set up."""

from collections.abc import Mapping

from aggregator.report import words
from aggregator.report.looks import Fleet
from aggregator.report.page import (
    ABSENT,
    Html,
    details,
    element,
    flatten,
    milliseconds,
    number,
    percent,
    short_percent,
    si,
    table,
)
from aggregator.report.sections import section
from aggregator.results import RunResult

_OPEN_ROUNDS_MAX = 30
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


def device_table(result: RunResult, fleet: Fleet) -> Html:
    """A row for every device: what it did and what that cost it."""
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
    return section("Devices", element("div", table(_DEVICE_HEAD, rows, words=2), class_="card"), *kept)


def comparison_table(result: RunResult, comparisons: Mapping[str, RunResult]) -> Html:
    """A row for every run, this one first; nothing where it stands alone."""
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
    return section("Comparisons", element("div", table(head, rows), class_="card"))


def round_table(result: RunResult) -> Html:
    """A row for every round, folded where there are many."""
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
    return section("Rounds", details(words.how_many(len(rows), "round"), table(head, rows), is_open=not many))


def setup(result: RunResult) -> Html:
    """All settings, what ran, and the hash of what came out."""
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
    return section("Settings and versions", *shown)
