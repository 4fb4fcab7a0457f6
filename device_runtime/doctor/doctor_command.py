"""`espalier device doctor`: the examination as a table or JSON, and an exit status."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from device_runtime.config import DeviceSettings, load_device_settings
from device_runtime.doctor.examination import examine, report
from device_runtime.doctor.finding import Finding, Patient
from device_runtime.wire.errors import UsageError
from firmware_profiles.detect import detect_board

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "dim"}


def run_doctor(config: Path | None, root: Path, only: Sequence[str], json: bool) -> None:
    """Examine this machine, or the captured tree below `root`, by all checks or those of the names given.

    Exit status 1 where something failed.
    """
    settings, findings = _settings(config)
    live = root == Path("/")
    patient = Patient(detect_board(root), root=root, settings=settings, live=live)
    with Console(stderr=True).status("looking") as status:
        findings += examine(patient, lambda name: status.update(f"looking at: {name}"), only)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report(findings))).decode())
    else:
        _show(findings)
    if any(f.status == "failed" for f in findings):
        raise typer.Exit(1)


def _settings(config: Path | None) -> tuple[DeviceSettings | None, list[Finding]]:
    """The settings, or a finding that says why there are none."""
    if config is None:
        return None, []
    try:
        return load_device_settings(config), [Finding("settings", "ok", f"{config} is valid")]
    except UsageError as error:
        return None, [Finding("settings", "failed", str(error), "docs/reference/settings.md has every key")]


def _show(findings: Sequence[Finding]) -> None:
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, f"[{STYLES[finding.status]}]{finding.status}[/]", escape(finding.found))
    console = Console(highlight=False)
    console.print(table)
    mend = [f for f in findings if f.remedy and f.status in ("failed", "warning")]
    if mend:
        console.print("\nTo mend it:")
    for finding in mend:
        console.print(f"  {finding.check}: {finding.remedy}", markup=False, soft_wrap=True)
