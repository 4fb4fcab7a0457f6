"""Settings of a run that cannot work are one sentence, before anything is built."""

from pathlib import Path

import msgspec
import pytest

from aggregator.core.registry import kind_of
from aggregator.core.weighting import Cgsv
from aggregator.recipes import RECIPES
from aggregator.settings import Settings, check_settings, load_settings, settings_of
from device_runtime.wire.errors import UsageError


def settings(sparsity: float = 0.8, **tables: object) -> Settings:
    written = {
        "run": {"folder": "RUN"},
        "input": {"shape": (1, 8, 8)},
        "link": {"allow_unsigned": True},
        "pruning": {"sparsity": sparsity},
    }
    return settings_of({**written, **tables}, "a.toml")


@pytest.mark.parametrize("kind", ["capability", "contribution"])
def test_the_most_sparse_device_may_not_be_denser_than_the_run(kind):
    with pytest.raises(UsageError, match=r"\[rates\] sparsity_max is 0\.95, below \[pruning\] sparsity 0\.98"):
        check_settings(settings(0.98, rates=kind))
    check_settings(settings(0.95, rates=kind))


def test_fixed_rates_ask_nothing_of_the_most():
    check_settings(settings(0.98))


def test_masks_cannot_move_on_devices_after_the_last_epoch():
    by_devices = {"kind": "by_devices", "after_epochs": 3}
    check_settings(settings(topology=by_devices, training={"local_epochs": 3}))
    with pytest.raises(UsageError, match=r"\[topology\] after_epochs is 3, and devices train 2"):
        check_settings(settings(topology=by_devices, training={"local_epochs": 2}))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("capability", {"quantile": 2.0}),
        ("capability", {"sparsity_max": 1.0}),
        ("contribution", {"sparsity_max": 1.0}),
        ("contribution", {"kappa": -1.0}),
    ],
)
def test_rates_out_of_range_are_refused(kind, rates):
    with pytest.raises(UsageError, match=r"a\.toml: \[rates\] " + next(iter(rates))):
        settings(rates={"kind": kind, **rates})


TEXT = '[run]\nfolder = "r"\n[input]\nshape = [1]\n[link]\nallow_unsigned = true\n'


def load(text: str) -> Settings:
    return load_settings(Path("a.toml"), TEXT + text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[rates]\nkind = "capabilty"', r"\[rates\] kind is 'capabilty'; use one of capability, contribution, fixed"),
        ("[rates]\nkappa = 0.1", r"\[rates\] unknown key 'kappa' of kind 'fixed'; its keys: none but that"),
        ('[pruning]\nlayers = "erc"', r"\[pruning.layers\] kind is 'erc'; use one of er, erk, erk_sparsity, uniform"),
        ('[method]\nrecipe = "fedsgd"', r"\[method\] recipe is 'fedsgd'; use one of fedavg, "),
        ("[pruning]\nsparsity = 1.5", r"\[pruning\] sparsity is 1.5; give the share"),
        ('[training]\noptimizer = "adam"', r"\[training.optimizer\] .*'adam'; use one of sgd, adamw"),
        ("[topology]\nend_round = -1", r"\[topology\] every_rounds is 3, end_round -1"),
        ("[weighting]\ngamma0 = 'much'", r"\[weighting\] gamma0: Expected `float`, got `str`"),
    ],
)
def test_what_is_wrong_is_told_with_what_there_is(text, says):
    with pytest.raises(UsageError, match=r"^a\.toml: " + says):
        load(text)


def test_a_file_from_before_rules_had_tables_is_told_where_each_key_stands_now():
    old = '[pruning]\ntopology = "static"\nresidual = "keep"\n[contribution]\nweighting = "samples"\nstep = "unit"'
    says = (
        r"rules have tables of their own now: \[pruning\] residual is now \[residual\] kind; \[pruning\] topology is "
        r"now \[topology\] kind; \[contribution\] weighting is now \[weighting\] kind; \[contribution\] step is now "
        r"\[combining\] kind \(raw is now mean\)"
    )
    with pytest.raises(UsageError, match=says):
        load(old)


def test_a_table_is_read_over_the_recipes_key_by_key_and_another_kind_replaces_it():
    assert load("") == load('[method]\nrecipe = "thesis"')
    sparse = load('[method]\nrecipe = "fedavg"\n[pruning]\nlayers = "uniform"')
    assert (sparse.pruning.sparsity, kind_of(sparse.pruning.layers)) == (0.0, "uniform")
    assert kind_of(sparse.weighting) == "samples"
    by_contribution = load('[method]\nrecipe = "fedavg"\n[weighting]\nkind = "cgsv"\ngamma0 = 0.5')
    assert by_contribution.weighting == Cgsv(gamma0=0.5)
    assert kind_of(by_contribution.topology) == "static"


def test_settings_read_over_their_recipe_are_the_same_when_they_are_read_again():
    for recipe in RECIPES.kinds:
        once = load(f'[method]\nrecipe = "{recipe}"')
        again = settings_of(msgspec.to_builtins(once), "again")
        assert msgspec.json.encode(again) == msgspec.json.encode(once)
