"""`espalier demo`: the whole path on this machine, with a real broker and real training."""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from aggregator.core.registry import kind_of
from aggregator.core.residuals import RESIDUALS
from aggregator.core.weighting import WEIGHTINGS
from aggregator.demo.broker import choose_broker
from aggregator.demo.live import Display, View, summary
from aggregator.demo.plan import Options, Plan, make_plan
from aggregator.demo.run import comparison_plan, run_demo
from aggregator.recipes import RECIPES
from aggregator.settings import ModelSection
from device_runtime.engines import engine_names
from device_runtime.wire.errors import UsageError

_MARK = "processes.json"
app = typer.Typer(add_completion=False)


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 15,
    devices: Annotated[int, typer.Option(help="Number of device processes.")] = 5,
    recipe: Annotated[
        str, typer.Option(help=f"The method by name: {', '.join(RECIPES.kinds)}. What is chosen below comes before it.")
    ] = "thesis",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of prunable weights removed, in [0, 1); the recipe's, 0.8 of thesis.")
    ] = None,
    dense_rounds: Annotated[int, typer.Option(help="Rounds before anything is pruned; then by trained magnitude.")] = 0,
    model: Annotated[
        str, typer.Option(help="A model of the zoo, package.module:factory of a torch model, or FILE.onnx.")
    ] = "mlp",
    data: Annotated[str, typer.Option(help="'digits', or an .npz with x_train y_train x_test y_test.")] = "digits",
    layout: Annotated[str, typer.Option(help="Axes of a raw sample: auto, hw, hwc, chw, t, tc, ct.")] = "auto",
    partition: Annotated[str, typer.Option(help="iid, dirichlet:BETA, by:NAME.")] = "dirichlet:0.5",
    noise: Annotated[str, typer.Option(help="Label noise KIND:RATE@I[,J], or none.")] = "pair:0.4@2",
    weighting: Annotated[
        str | None,
        typer.Option(help=f"How devices are weighted: {', '.join(WEIGHTINGS.kinds)}; the recipe's, cgsv of thesis."),
    ] = None,
    residual: Annotated[
        str | None,
        typer.Option(help=f"What stands off the mask: {', '.join(RESIDUALS.kinds)}; the recipe's, trained of thesis."),
    ] = None,
    optimizer: Annotated[Literal["sgd", "adamw"], typer.Option(help="The local optimizer.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.03,
    momentum: Annotated[float, typer.Option(help="Momentum of sgd.")] = 0.9,
    proximal_mu: Annotated[
        float | None, typer.Option(help="FedProx's pull towards the received values; the recipe's, 0 of thesis.")
    ] = None,
    clip_norm: Annotated[float, typer.Option(help="Largest norm of a step's gradient; 0 is no limit.")] = 0.0,
    batch: Annotated[int, typer.Option(help="Batch size.")] = 32,
    local_epochs: Annotated[int, typer.Option(help="Epochs per round on each device.")] = 3,
    update_dtype: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="How updates travel.")] = "fp16",
    engine: Annotated[
        str, typer.Option(help=f"{', '.join(('auto', *engine_names()))}; several, comma-separated, take turns.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Everything random is drawn from it.")] = 1,
    compare: Annotated[str, typer.Option(help="Also run: fedavg, samples, or both, comma-separated.")] = "",
    broker: Annotated[str, typer.Option(help="auto, nats, mosquitto, or HOST:PORT of a running one.")] = "auto",
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("espalier-run"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")] = False,
) -> None:
    """Train a pruned model on N device processes over a real MQTT broker, one of them with noisy labels."""
    options = Options(
        rounds=rounds,
        devices=devices,
        data=data,
        layout=layout,
        partition=partition,
        noise="none" if devices == 1 and noise == "pair:0.4@2" else noise,
        engine=engine,
        seed=seed,
        model=_model(model),
        tables=_chosen(
            {
                "method": recipe,
                "training": {
                    "optimizer": optimizer,
                    "learning_rate": lr,
                    "momentum": momentum if optimizer == "sgd" else 0.0,
                    "proximal_mu": proximal_mu,
                    "clip_norm": clip_norm,
                    "batch_size": batch,
                    "local_epochs": local_epochs,
                    "update_dtype": update_dtype,
                },
                "pruning": {"sparsity": sparsity, "dense_rounds": dense_rounds},
                "weighting": weighting,
                "residual": residual,
            }
        ),
    )
    console = Console(stderr=as_json)
    plan = make_plan(options, out)
    names = [name.strip() for name in compare.split(",") if name.strip()]
    others = {name: comparison_plan(name, options, out) for name in names}
    choose_broker(broker)  # before anything of an earlier run goes
    _clear(out)
    if not as_json:
        _print_settings(console, options, plan)
    runs = {}
    for name, (chosen, chosen_plan) in {"": (options, plan), **others}.items():
        view = View(chosen_plan, name or f"espalier demo → {out}", run=f"{name}: " if name else "")
        with Display(console, view, quiet=as_json) as display:
            runs[name] = run_demo(chosen, chosen_plan, broker, display.show)
    result = runs.pop("")
    from aggregator.report.run_report import write_report

    page = write_report(out, result, runs)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=1))
        return
    console.print(summary(result, runs))
    console.print(f"report: {page}\nresult: {out / 'result.json'}", highlight=False)


def _chosen(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables without what was left to the recipe."""
    inside = {n: {k: v for k, v in t.items() if v is not None} if isinstance(t, dict) else t for n, t in tables.items()}
    return {name: table for name, table in inside.items() if table is not None}


def _model(text: str) -> ModelSection:
    """What `--model` names."""
    if text.endswith(".onnx"):
        return ModelSection(onnx=text)
    return ModelSection(torch=text) if ":" in text else ModelSection(name=text)


def _clear(folder: Path) -> None:
    """Make room for a new run, never deleting anything that is no run of the demo."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).is_file()):
        raise UsageError(f"--out {str(folder)!r} exists and is no earlier demo run; choose another folder.")
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
