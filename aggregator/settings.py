"""The settings of a run: what the operator chooses, checked once, written into the run folder."""

from pathlib import Path

import msgspec

from aggregator.core.averaging import AveragingRule, Coverage
from aggregator.core.averaging import Step as ServerStep
from aggregator.core.contribution import ContributionRule, ScoreScale, Weighting
from aggregator.core.pruning import LayerRule, keep_counts
from aggregator.core.rates import RatePolicy, RatesRule
from aggregator.core.residuals import ResidualPolicy
from aggregator.core.rounds import RoundRules
from aggregator.core.topology import Between, GrowValue, Kind, TopologyRule, end_round_of
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec, Loss, OptimizerName
from device_runtime.wire.messages import Hyper
from device_runtime.wire.names import check_name
from device_runtime.wire.settings import LinkSettings, check_link, parse_settings
from device_runtime.wire.submodel import ValueType


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


class PruningSection(Section, frozen=True):
    """How much is pruned, where, and how the mask moves; end_round 0 means three quarters of the rounds."""

    sparsity: float = 0.8
    layers: LayerRule = "erk"
    residual: ResidualPolicy = "trained"
    topology: Kind = "dynamic"
    prune_share: float = 0.1
    every_rounds: int = 3
    end_round: int = 0
    dense_rounds: int = 0
    grow_value: GrowValue = "residual"
    between: Between = "keep"


class ContributionSection(Section, frozen=True):
    """How updates are weighted and averaged."""

    weighting: Weighting = "cgsv"
    gamma0: float = 0.7
    weight_min: float = 1e-3
    score_scale: ScoreScale = "literal"
    exclude_self: bool = False
    coverage: Coverage = "coverage"
    step: ServerStep = "raw"


class RatesSection(Section, frozen=True):
    """How sparse each device's submodel is, beyond the run's sparsity."""

    policy: RatePolicy = "fixed"
    sparsity_max: float = 0.95
    quantile: float = 0.5
    kappa: float = 0.2


class RoundsSection(Section, frozen=True):
    """How many rounds, with how many devices, and how long a round waits."""

    count: int = 15
    devices_min: int = 1
    quorum: int = 1
    deadline_s: float = 600.0
    missed_max: int = 2
    heartbeat_s: float = 30.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a run."""

    run: RunSection
    input: InputSpec
    link: LinkSettings = LinkSettings()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    pruning: PruningSection = PruningSection()
    contribution: ContributionSection = ContributionSection()
    rates: RatesSection = RatesSection()
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

    @property
    def topology_rule(self) -> TopologyRule:
        """When and how the mask moves."""
        p = self.pruning
        return TopologyRule(
            end_round=p.end_round or end_round_of(self.rounds.count),
            kind=p.topology,
            prune_share=p.prune_share,
            every_rounds=p.every_rounds,
            grow_value=p.grow_value,
            layer_rule=p.layers,
            between=p.between,
            dense_rounds=p.dense_rounds,
        )

    @property
    def contribution_rule(self) -> ContributionRule:
        """How devices are weighted."""
        c = self.contribution
        return ContributionRule(c.weighting, c.gamma0, c.weight_min, c.score_scale, c.exclude_self)

    @property
    def averaging_rule(self) -> AveragingRule:
        """How updates are averaged."""
        return AveragingRule(coverage=self.contribution.coverage, step=self.contribution.step)

    @property
    def rates_rule(self) -> RatesRule:
        """How sparse each device's submodel is."""
        r = self.rates
        return RatesRule(r.policy, r.sparsity_max, r.quantile, r.kappa)


def load_settings(path: Path, text: str) -> Settings:
    """Settings from the text of `path`, checked. Raises UsageError naming the file and the key."""
    settings = parse_settings(text, Settings, str(path))
    try:
        check_settings(settings)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return settings


def check_settings(settings: Settings) -> None:
    """Raise UsageError for a value that cannot work, before anything is built."""
    check_name(settings.link.site, "[link] site")
    check_link(settings.link, "the run's settings")
    keep_counts({"weight": (10, 10)}, settings.pruning.sparsity, "uniform")
    _ = settings.topology_rule, settings.contribution_rule, settings.averaging_rule
    if settings.rates_rule.policy != "fixed" and settings.rates.sparsity_max < settings.pruning.sparsity:
        raise UsageError(
            f"[rates] sparsity_max is {settings.rates.sparsity_max}, below [pruning] sparsity "
            f"{settings.pruning.sparsity}: devices are only ever pruned further."
        )
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
    if settings.pruning.dense_rounds >= settings.rounds.count:
        raise UsageError(
            f"[pruning] dense_rounds is {settings.pruning.dense_rounds} of {settings.rounds.count} rounds; "
            "leave at least one for the pruned model."
        )
    for section, key, number in (
        ("rounds", "deadline_s", settings.rounds.deadline_s),
        ("rounds", "heartbeat_s", settings.rounds.heartbeat_s),
        ("training", "learning_rate", settings.training.learning_rate),
    ):
        if not number > 0:
            raise UsageError(f"[{section}] {key} is {number}; give a positive number.")
