"""The settings of a run: what the operator chooses, checked once, written into the run folder.

The tables of the method's rules are the rules' own records; what a file leaves out of them, the recipe fills in.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from aggregator.core.composed import Parts
from aggregator.core.method import Facts, Method
from aggregator.core.registry import read_rule
from aggregator.core.round_state import RoundRules
from aggregator.moved_settings import moved
from aggregator.recipes import RECIPES, Recipe, Thesis
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec, Loss, OptimizerName
from device_runtime.wire.messages import Hyper
from device_runtime.wire.names import check_name
from device_runtime.wire.settings import LinkSettings, check_link, convert_settings
from device_runtime.wire.submodel import ValueType
from device_runtime.wire.toml import read_toml


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


class RunSection(Section, frozen=True):
    """Where the run lives and what it draws from.

    held_out: an .npz with x_test, y_test, evaluated every round. calibration: an .npz with x, from which the running
    statistics of the dense model are re-estimated; without it a model with batch normalisation has no dense accuracy.
    """

    folder: str
    seed: int = 0
    held_out: str = ""
    calibration: str = ""
    leave_after_s: float = 3.0


class ModelSection(Section, frozen=True):
    """The model: a name of the zoo, or a user's: torch = "package.module:factory", or onnx = a file."""

    name: str = "mlp"
    classes: int = 10
    torch: str = ""
    onnx: str = ""
    loss: Loss = "cross_entropy"


class TrainingSection(Section, frozen=True):
    """What devices do in a round."""

    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.03
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    clip_norm: float = 0.0
    batch_size: int = 32
    local_epochs: int = 3
    update_dtype: ValueType = "fp16"


class RoundsSection(Section, frozen=True):
    """How many rounds, with how many devices, and how long a round waits."""

    count: int = 15
    devices_min: int = 1
    quorum: int = 1
    deadline_s: float = 600.0
    missed_max: int = 2
    heartbeat_s: float = 30.0


class Settings(Parts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a run: the rules of its method and everything around them.

    What is written here stands; `settings_of` reads tables over their recipe.
    """

    run: RunSection
    input: InputSpec
    link: LinkSettings = LinkSettings()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    method: Recipe = Thesis()
    rounds: RoundsSection = RoundsSection()

    @property
    def hyper(self) -> Hyper:
        """What every assignment says of training."""
        t = self.training
        return Hyper(
            seed=self.run.seed,
            epoch_count=t.local_epochs,
            batch_size=t.batch_size,
            learning_rate=t.learning_rate,
            update_dtype=t.update_dtype,
        )

    @property
    def round_rules(self) -> RoundRules:
        """What the round machine needs to know."""
        r = self.rounds
        return RoundRules(
            round_count=r.count,
            devices_min=r.devices_min,
            quorum=r.quorum,
            deadline_s=r.deadline_s,
            missed_max=r.missed_max,
            heartbeat_s=r.heartbeat_s,
        )

    def compose(self, facts: Facts) -> Method:
        """The method of the run, for its model."""
        return self.method.method(self, facts, round_count=self.rounds.count, seed=self.run.seed)


def load_settings(path: Path, text: str) -> Settings:
    """Settings from the text of `path`, checked. Raises UsageError naming the file and the key."""
    settings = settings_of(read_toml(text, str(path)), str(path))
    try:
        check_settings(settings)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return settings


def settings_of(tables: Mapping[str, object], source: str) -> Settings:
    """The settings of tables as a file has them, read over the tables of their recipe.

    Raises UsageError naming `source`, the table, and what would be right.
    """
    if sentence := moved(tables):
        raise UsageError(f"{source}: {sentence}")
    try:
        recipe: Recipe = RECIPES.read(tables.get("method", {"recipe": "thesis"}))
    except ValueError as error:
        raise UsageError(f"{source}: [method] {error}.") from error
    filled = dict(tables)
    for name, table in recipe.tables().items():
        filled[name] = _over(msgspec.to_builtins(table), tables.get(name))
    return convert_settings(filled, Settings, source, read_rule)


def decode_settings(data: bytes | str) -> Settings:
    """Settings from their JSON. Raises UsageError for those of another version, naming what is other."""
    try:
        return msgspec.json.decode(data, type=Settings, dec_hook=read_rule)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"the run was begun by another version, with other settings ({error}).") from error


def _over(default: dict[str, object], given: object) -> object:
    """A table read over a recipe's: key by key, unless it names another rule."""
    if given is None:
        return default
    if isinstance(given, str):
        given = {"kind": given}
    if not isinstance(given, dict) or given.get("kind", default.get("kind")) != default.get("kind"):
        return given
    return {**default, **given}


def check_settings(settings: Settings) -> None:
    """Raise UsageError for a value that cannot work, before anything is built."""
    check_name(settings.link.site, "[link] site")
    check_link(settings.link, "the run's settings")
    furthest = getattr(settings.rates, "sparsity_max", None)
    if furthest is not None and furthest < settings.pruning.sparsity:
        raise UsageError(
            f"[rates] sparsity_max is {furthest}, below [pruning] sparsity {settings.pruning.sparsity}: "
            "devices are only ever pruned further."
        )
    moment, epochs = getattr(settings.topology, "after_epochs", 0), settings.training.local_epochs
    if moment > epochs:
        raise UsageError(
            f"[topology] after_epochs is {moment}, and devices train {epochs} by [training] local_epochs: "
            "masks can move after the last at the latest."
        )
    _check_numbers(settings)
    if settings.pruning.dense_rounds >= settings.rounds.count:
        raise UsageError(
            f"[pruning] dense_rounds is {settings.pruning.dense_rounds} of {settings.rounds.count} rounds; "
            "leave at least one for the pruned model."
        )


def _check_numbers(settings: Settings) -> None:
    """The bounds of single numbers."""
    for section, key, value, least in (
        ("rounds", "count", settings.rounds.count, 1),
        ("rounds", "devices_min", settings.rounds.devices_min, 1),
        ("rounds", "quorum", settings.rounds.quorum, 1),
        ("rounds", "missed_max", settings.rounds.missed_max, 1),
        ("training", "batch_size", settings.training.batch_size, 1),
        ("training", "local_epochs", settings.training.local_epochs, 0),
        ("model", "classes", settings.model.classes, 1),
    ):
        if value < least:
            raise UsageError(f"[{section}] {key} is {value}; give at least {least}.")
    for section, key, number in (
        ("rounds", "deadline_s", settings.rounds.deadline_s),
        ("rounds", "heartbeat_s", settings.rounds.heartbeat_s),
        ("training", "learning_rate", settings.training.learning_rate),
    ):
        if not number > 0:
            raise UsageError(f"[{section}] {key} is {number}; give a positive number.")
