"""`espalier demo`: the whole path on this machine, with a real broker and real training."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import typer
from rich.console import Console

from aggregator.core.registry import kind_of
from aggregator.demo import choices
from aggregator.demo.broker import choose_broker
from aggregator.demo.live import Display, View, summary
from aggregator.demo.plan import Options, Plan, make_plan
from aggregator.demo.run import comparison_plan, run_demo
from aggregator.results import RunResult
from aggregator.run_lock import holding
from device_runtime.wire.errors import UsageError

_MARK = "processes.json"
app = typer.Typer(add_completion=False)


@app.command()
def demo(
    context: typer.Context,
    rounds: choices.Rounds = 15,
    devices: choices.Devices = 5,
    recipe: choices.RecipeName = "thesis",
    sparsity: choices.Sparsity = None,
    dense_rounds: choices.DenseRounds = 0,
    model: choices.Model = "mlp",
    data: choices.Data = "digits",
    layout: choices.Layout = "auto",
    partition: choices.Partition = "dirichlet:0.5",
    noise: choices.LabelNoise = choices.NOISE,
    weighting: choices.WeightingName = None,
    residual: choices.ResidualName = None,
    optimizer: choices.OptimizerChoice = "sgd",
    lr: choices.LearningRate = 0.03,
    momentum: choices.Momentum = 0.9,
    proximal_mu: choices.ProximalMu = None,
    clip_norm: choices.ClipNorm = 0.0,
    batch: choices.Batch = 32,
    local_epochs: choices.LocalEpochs = 3,
    update_dtype: choices.UpdateDtype = "fp16",
    engine: choices.EngineNames = "auto",
    seed: choices.Seed = 1,
    compare: choices.Compare = "",
    broker: choices.BrokerPlace = "auto",
    out: choices.Out = Path("espalier-run"),
    as_json: choices.AsJson = False,
) -> None:
    """Train a pruned model on N device processes over a real MQTT broker, one of them with noisy labels."""
    options = choices.options_of(context.params)
    plans = {"": (options, make_plan(options, out))}
    for name in filter(None, map(str.strip, compare.split(","))):
        plans[name] = comparison_plan(name, options, out)
    choose_broker(broker)  # before anything of an earlier run goes
    _clear(out)
    console = Console(stderr=as_json)
    if not as_json:
        _print_settings(console, *plans[""])
    _tell(console, _trained(console, plans, broker, out, quiet=as_json), out, as_json)


def _trained(
    console: Console, plans: Mapping[str, tuple[Options, Plan]], broker: str, out: Path, *, quiet: bool
) -> dict[str, RunResult]:
    """What each run gave, one after the other, the run itself under ""."""
    results = {}
    for name, (options, plan) in plans.items():
        view = View(plan, name or f"espalier demo → {out}", run=f"{name}: " if name else "")
        with Display(console, view, quiet=quiet) as display:
            results[name] = run_demo(options, plan, broker, display.show)
    return results


def _tell(console: Console, results: Mapping[str, RunResult], out: Path, as_json: bool) -> None:
    """Write the page; print the result, or a summary and where both are."""
    from aggregator.report.run_report import write_report

    others = dict(results)
    result = others.pop("")
    page = write_report(out, result, others)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=1))
        return
    console.print(summary(result, others))
    console.print(f"report: {page}\nresult: {out / 'result.json'}", highlight=False)


def _clear(folder: Path) -> None:
    """Make room for a new run, never deleting anything that is no run of the demo."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).is_file()):
        raise UsageError(f"--out {str(folder)!r} exists and is no earlier demo run; choose another folder.")
    with holding(folder):  # not while the earlier one still runs
        shutil.rmtree(folder)


def _print_settings(console: Console, options: Options, plan: Plan) -> None:
    """The choices that decide the outcome, before it is seen."""
    s, t, d = plan.settings, plan.settings.training, plan.dataset
    after = f" after {s.pruning.dense_rounds} dense rounds" if s.pruning.dense_rounds else ""
    size = "x".join(str(n) for n in s.input.shape)
    console.print(
        f"data {d.name}: {len(d.x_train)} training, {len(d.x_test)} test samples, {d.class_count} classes, "
        f"layout {d.layout} -> input {size}\n"
        f"model {s.model.torch or s.model.name}, sparsity {s.pruning.sparsity} ({kind_of(s.pruning.layers)}){after}, "
        f"residual {kind_of(s.residual)}, topology {kind_of(s.topology)}\n"
        f"{options.devices} devices, {options.partition}, noise {options.noise}; {t.local_epochs} local epochs, "
        f"{t.optimizer} {t.learning_rate} momentum {t.momentum}, batch {t.batch_size}, {t.update_dtype} updates\n"
        f"recipe {kind_of(s.method)}, weighting {kind_of(s.weighting)}, {options.rounds} rounds, "
        f"engine {options.engine}, seed {options.seed}",
        highlight=False,
    )
