"""What the demo shows while it runs: a table that lives on a terminal, or plain lines where there is none."""

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from aggregator.demo.plan import Plan
from aggregator.demo.processes import DeviceRestarted, Event
from aggregator.results import RunResult
from aggregator.run_events import (
    DeviceJoined,
    DeviceLeft,
    Noted,
    Refused,
    RoundCommitted,
    RoundOpened,
    UpdateJudged,
)


@dataclass(slots=True)
class Row:
    """What is known of a device right now."""

    status: str = "starting"
    contribution: float | None = None
    weight: float | None = None
    sparsity: float | None = None
    step_ms: float | None = None
    flops_executed: int = 0
    bytes_up: int = 0


@dataclass(slots=True)
class View:
    """The demo's picture of the run, folded from the aggregator's events."""

    plan: Plan
    title: str
    run: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    round_index: int = 0
    accuracy_dense: float | None = None
    accuracy_sparse: float | None = None
    bytes_up: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = {d.name: Row() for d in self.plan.devices}

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        match event:
            case DeviceJoined(device=device):
                self._row(device).status = "joined"
            case DeviceLeft(device=device):
                self._row(device).status = "left"
            case DeviceRestarted(device=device):
                self._row(device).status = "restarted"
                self.notes.append(f"{device} died (status {event.exit_code}) and was started again")
            case Refused(device=device, reason=reason):
                self._row(device).status = "refused"
                self.notes.append(f"{device}: {reason}")
            case Noted(text=text):
                self.notes.append(text)
            case RoundOpened(devices=devices):
                for name in devices:
                    self._row(name).status = "training"
            case UpdateJudged():
                self._judged(event)
            case RoundCommitted():
                self._committed(event)

    def _row(self, device: str) -> Row:
        """The row of a device; of one that is not the demo's, a row that nobody sees."""
        return self.rows.get(device, Row())

    def _judged(self, event: UpdateJudged) -> None:
        row = self._row(event.device)
        row.status = event.verdict
        row.step_ms = event.step_ms_p50 or row.step_ms
        row.bytes_up += event.bytes

    def _committed(self, event: RoundCommitted) -> None:
        self.round_index = event.round_index
        self.accuracy_dense, self.accuracy_sparse = event.accuracy_dense, event.accuracy_sparse
        self.bytes_up += event.bytes_up
        for device in event.devices:
            row = self._row(device.name)
            row.contribution, row.weight, row.sparsity = device.contribution, device.weight, device.sparsity
            row.flops_executed += device.flops_executed or 0

    def table(self) -> Table:
        """The devices, one row each."""
        table = Table(title=self.title, title_justify="left", expand=False)
        table.add_column("device")
        for name in ("samples", "ψ", "weight", "sparsity", "step ms", "GFLOP", "kB up"):
            table.add_column(name, justify="right")
        table.add_column("status")
        noisy = self.plan.noisy
        for (name, row), samples in zip(self.rows.items(), self.plan.sample_counts, strict=True):
            label = Text(name + (" (noisy)" if name in noisy else ""), style="yellow" if name in noisy else "")
            table.add_row(
                label, str(samples), _number(row.contribution, "+.3f"), _number(row.weight, ".3f"),
                _number(row.sparsity, ".1%"), _number(row.step_ms, ".3f"), f"{row.flops_executed / 1e9:.3f}",
                f"{row.bytes_up / 1e3:.1f}", row.status,
            )  # fmt: skip
        return table

    def headline(self) -> str:
        """The model now, in a line."""
        dense, sparse = _number(self.accuracy_dense, ".4f"), _number(self.accuracy_sparse, ".4f")
        return f"accuracy sparse {sparse}, dense {dense}; {self.bytes_up / 1e3:.1f} kB up"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class Display:
    """Shows a view: live where the console is a terminal, a line per round elsewhere, nothing when `quiet`."""

    def __init__(self, console: Console, view: View, *, quiet: bool) -> None:
        self._console, self._view, self._quiet = console, view, quiet
        self._progress = Progress(
            TextColumn("round"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("round", total=view.plan.settings.rounds.count)
        self._live = None if quiet or not console.is_terminal else Live(console=console, refresh_per_second=8)
        self._due = 0.0

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._refresh()
            self._live.stop()

    def show(self, event: Event | None) -> None:
        """Take one event in; None lets the clock run."""
        if event is not None:
            self._view.apply(event)
            if self._live is None and not self._quiet:
                self._line(event)
        if self._live is not None and (event is not None or time.monotonic() >= self._due):
            self._refresh()

    def _refresh(self) -> None:
        assert self._live is not None, "only a live display refreshes"
        self._due = time.monotonic() + 0.2
        self._progress.update(self._task, completed=self._view.round_index)
        notes = [Text(n, style="dim") for n in self._view.notes[-3:]]
        self._live.update(Group(self._view.table(), Text(self._view.headline()), *notes, self._progress))

    def _line(self, event: Event) -> None:
        if isinstance(event, RoundCommitted):
            total = self._view.plan.settings.rounds.count
            self._console.print(f"{self._view.run}round {self._view.round_index}/{total}: {self._view.headline()}")
        elif isinstance(event, DeviceRestarted | Refused | Noted):
            self._console.print(self._view.notes[-1], highlight=False)


def summary(result: RunResult, comparisons: dict[str, RunResult]) -> Table:
    """The runs side by side."""
    table = Table(title="result", title_justify="left")
    table.add_column("run")
    for name in ("accuracy sparse", "accuracy dense", "kB up", "of dense fp32", "GFLOP executed", "seconds"):
        table.add_column(name, justify="right")
    for name, run in {"this run": result, **comparisons}.items():
        t = run.totals
        table.add_row(
            name, _number(run.final.accuracy_sparse, ".4f"), _number(run.final.accuracy_dense, ".4f"),
            f"{t.bytes_up / 1e3:.1f}", f"{t.bytes_up / max(t.bytes_up_dense_fp32, 1):.1%}",
            f"{t.flops_executed / 1e9:.3f}", f"{t.wall_s:.1f}",
        )  # fmt: skip
    return table
