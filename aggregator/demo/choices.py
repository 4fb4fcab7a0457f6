"""What a person may choose on the command line of the demo: its options, and which keys of a settings file they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aggregator.core.residuals import RESIDUALS
from aggregator.core.weighting import WEIGHTINGS
from aggregator.demo.plan import Options
from aggregator.recipes import RECIPES
from aggregator.settings import ModelSection
from device_runtime.engines import engine_names

Rounds = Annotated[int, typer.Option(help="Number of rounds.")]
Devices = Annotated[int, typer.Option(help="Number of device processes.")]
RecipeName = Annotated[
    str, typer.Option(help=f"The method by name: {', '.join(RECIPES.kinds)}. What is chosen below comes before it.")
]
Sparsity = Annotated[
    float | None, typer.Option(help="Share of prunable weights removed, in [0, 1); the recipe's, 0.8 of thesis.")
]
DenseRounds = Annotated[int, typer.Option(help="Rounds before anything is pruned; then by trained magnitude.")]
Model = Annotated[str, typer.Option(help="A model of the zoo, package.module:factory of a torch model, or FILE.onnx.")]
Data = Annotated[str, typer.Option(help="'digits', or an .npz with x_train y_train x_test y_test.")]
Layout = Annotated[str, typer.Option(help="Axes of a raw sample: auto, hw, hwc, chw, t, tc, ct.")]
Partition = Annotated[str, typer.Option(help="iid, dirichlet:BETA, by:NAME.")]
LabelNoise = Annotated[str, typer.Option(help="Label noise KIND:RATE@I[,J], or none.")]
WeightingName = Annotated[
    str | None,
    typer.Option(help=f"How devices are weighted: {', '.join(WEIGHTINGS.kinds)}; the recipe's, cgsv of thesis."),
]
ResidualName = Annotated[
    str | None,
    typer.Option(help=f"What stands off the mask: {', '.join(RESIDUALS.kinds)}; the recipe's, trained of thesis."),
]
OptimizerChoice = Annotated[Literal["sgd", "adamw"], typer.Option(help="The local optimizer.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate.")]
Momentum = Annotated[float, typer.Option(help="Momentum of sgd.")]
ProximalMu = Annotated[
    float | None, typer.Option(help="FedProx's pull towards the received values; the recipe's, 0 of thesis.")
]
ClipNorm = Annotated[float, typer.Option(help="Largest norm of a step's gradient; 0 is no limit.")]
Batch = Annotated[int, typer.Option(help="Batch size.")]
LocalEpochs = Annotated[int, typer.Option(help="Epochs per round on each device.")]
UpdateDtype = Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="How updates travel.")]
EngineNames = Annotated[
    str, typer.Option(help=f"{', '.join(('auto', *engine_names()))}; several, comma-separated, take turns.")
]
Seed = Annotated[int, typer.Option(help="Everything random is drawn from it.")]
Compare = Annotated[str, typer.Option(help="Also run: fedavg, samples, or both, comma-separated.")]
BrokerPlace = Annotated[str, typer.Option(help="auto, nats, mosquitto, or HOST:PORT of a running one.")]
Out = Annotated[Path, typer.Option(help="Run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]

NOISE = "pair:0.4@2"
# Options that are keys of a settings file: the table, and the key in it where the option is not all of it.
_KEYS: Mapping[str, tuple[str, str]] = {
    "recipe": ("method", ""),
    "optimizer": ("training", "optimizer"),
    "lr": ("training", "learning_rate"),
    "momentum": ("training", "momentum"),
    "proximal_mu": ("training", "proximal_mu"),
    "clip_norm": ("training", "clip_norm"),
    "batch": ("training", "batch_size"),
    "local_epochs": ("training", "local_epochs"),
    "update_dtype": ("training", "update_dtype"),
    "sparsity": ("pruning", "sparsity"),
    "dense_rounds": ("pruning", "dense_rounds"),
    "weighting": ("weighting", ""),
    "residual": ("residual", ""),
}


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a run, from what was given for each option of the command by its name."""
    # The one device there is cannot be the noisy one; with adamw momentum means nothing.
    noise = "none" if given["devices"] == 1 and given["noise"] == NOISE else given["noise"]
    momentum = given["momentum"] if given["optimizer"] == "sgd" else 0.0
    return Options(
        rounds=given["rounds"],
        devices=given["devices"],
        data=given["data"],
        layout=given["layout"],
        partition=given["partition"],
        noise=noise,
        engine=given["engine"],
        seed=given["seed"],
        model=_model(given["model"]),
        tables=_tables({**given, "momentum": momentum}),
    )


def _tables(given: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a settings file, without what was left to the recipe."""
    tables: dict[str, Any] = {}
    for option, (table, key) in _KEYS.items():
        if given[option] is None:
            continue
        if key:
            tables.setdefault(table, {})[key] = given[option]
        else:
            tables[table] = given[option]
    return tables


def _model(text: str) -> ModelSection:
    """What `--model` names."""
    if text.endswith(".onnx"):
        return ModelSection(onnx=text)
    return ModelSection(torch=text) if ":" in text else ModelSection(name=text)
