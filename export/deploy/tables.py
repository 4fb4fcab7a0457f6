"""Reports of deployment as tables for a person."""

from rich.console import Console
from rich.table import Table

from export.deploy.c_array import CReport
from export.deploy.deployment import Report
from export.deploy.facts import Inspection
from export.deploy.verification import Side, Verification


def print_inspection(console: Console, found: Inspection) -> None:
    """The layers of a file and its totals."""
    table = Table(title=f"{found.file}: {found.kind} {found.version}", title_justify="left")
    for name in ("layer", "operator", "output", "type"):
        table.add_column(name, overflow="fold")
    # A number is never shortened; a long name folds.
    for name in ("parameters", "zero", "FLOPs dense", "FLOPs ideal"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(
            layer.name,
            layer.op,
            "x".join(map(str, layer.shape)) if layer.shape is not None else "unknown",
            layer.dtype,
            f"{layer.parameters:,}" if layer.parameters else "",
            "" if layer.sparsity is None else f"{layer.sparsity:.1%}",
            "" if layer.flops_dense is None else f"{layer.flops_dense:,}",
            "" if layer.flops_ideal is None else f"{layer.flops_ideal:,}",
        )
    table.add_section()
    total = ("", f"{found.parameters:,}", f"{found.sparsity:.1%}", f"{found.flops_dense:,}", f"{found.flops_ideal:,}")
    table.add_row("in all", "", "", *total)
    console.print(table)
    console.print(_totals(found))


def _totals(found: Inspection) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("file", f"{found.file_bytes:,} bytes, {found.compressed_bytes:,} compressed (zstd)")
    kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(found.dtypes.items(), key=lambda kv: -kv[1]))
    table.add_row("constants, bytes", kinds or "none")
    for word, values in (("input", found.inputs), ("output", found.outputs)):
        table.add_row(word, ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in values.items()))
    source = found.provenance.source_flops if found.provenance else None
    before = "" if source is None else f" (before cutting {source:,})"
    table.add_row("FLOPs executed", f"{found.flops_executed:,} per sample{before}")
    if found.flops_unknown:
        table.add_row("FLOPs unknown", ", ".join(found.flops_unknown))
    if found.provenance:
        p = found.provenance
        of_run = f", run {p.run}, round {p.round_index}, {p.which}" if p.run else ""
        table.add_row("made from", f"{p.model}{of_run}, {p.dtype}, {p.layout}")
        table.add_row("source", p.source_sha[:16])
        if p.replaced:
            table.add_row("replaced", f"{', '.join(p.replaced)} by a file of sha {p.replaced_sha[:16]}")
        if p.labels:
            table.add_row("labels", ", ".join(p.labels))
    return table


def print_verification(console: Console, found: Verification) -> None:
    """Two files side by side, and their difference."""
    table = Table(title=f"on {found.samples}", title_justify="left")
    table.add_column("")
    for side in (found.a, found.b):
        table.add_column(side.file, justify="right", overflow="fold")
    for word, values in (
        ("format", [f"{s.kind} {s.dtype}".strip() for s in (found.a, found.b)]),
        ("bytes", [f"{s.file_bytes:,}" for s in (found.a, found.b)]),
        ("bytes compressed", [f"{s.compressed_bytes:,}" for s in (found.a, found.b)]),
        ("accuracy", ["unknown" if s.accuracy is None else f"{s.accuracy:.4f}" for s in (found.a, found.b)]),
        ("latency p50, µs", [_latency(s) for s in (found.a, found.b)]),
        ("peak memory, MB", [_memory(s) for s in (found.a, found.b)]),
    ):
        table.add_row(word, *values)
    console.print(table)
    agreement = "" if found.argmax_agreement is None else f", argmax agreement {found.argmax_agreement:.2%}"
    console.print(
        f"difference: max {found.max_abs:.3g}, mean {found.mean_abs:.3g}, "
        f"max relative {found.max_relative:.3g}, RMS relative {found.rms_relative:.3g}{agreement}"
    )
    console.print("verified" if not found.failures else f"failed: {'; '.join(found.failures)}", highlight=False)


def _latency(side: Side) -> str:
    return "not measured" if side.cost is None else f"{side.cost.latency_ns_p50 / 1000:,.0f}"


def _memory(side: Side) -> str:
    peak = None if side.cost is None else side.cost.memory_bytes_peak
    return "unknown" if peak is None else f"{peak / 1e6:,.2f}"


def print_report(console: Console, report: Report) -> None:
    """What an export did."""
    print_verification(console, report.verification)
    if report.calibration:
        console.print(f"int8 ranges from {report.calibration}")
    for cut in report.cuts:
        console.print(f"{cut.layer}: {cut.before} units, {cut.after} kept")
    found = report.inspection
    before = found.provenance.source_flops if found.provenance else None
    if before:
        console.print(f"FLOPs per sample: {before:,} before, {found.flops_executed:,} now")
    console.print(f"wrote {report.file}")


def print_c(console: Console, report: CReport) -> None:
    """What was written as C, against its budgets."""
    print_report(console, report.model)
    table = Table(show_header=True, title=f"and {report.header}", title_justify="left")
    for name in ("", "bytes", "of", "left"):
        table.add_column(name, justify="right")
    need = report.need
    for word, used, limit in (
        ("flash", need.flash_bytes, need.flash_limit),
        ("RAM (tensors)", need.ram_bytes, need.ram_limit),
    ):
        rest = ("", "") if limit is None else (f"{limit:,}", f"{limit - used:,}")
        table.add_row(word, f"{used:,}", *rest)
    console.print(table)
