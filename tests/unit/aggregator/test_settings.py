"""Settings of a run that cannot work are one sentence, before anything is built."""

from pathlib import Path

import pytest

from aggregator.settings import PruningSection, RatesSection, RunSection, Settings, check_settings, load_settings
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.settings import LinkSettings


def settings(sparsity: float = 0.8, **rates: object) -> Settings:
    return Settings(
        run=RunSection(folder="RUN"),
        input=InputSpec(shape=(1, 8, 8)),
        link=LinkSettings(allow_unsigned=True),
        pruning=PruningSection(sparsity=sparsity),
        rates=RatesSection(**rates),
    )


@pytest.mark.parametrize("policy", ["capability", "contribution"])
def test_the_most_sparse_device_may_not_be_denser_than_the_run(policy):
    with pytest.raises(UsageError, match=r"\[rates\] sparsity_max is 0\.95, below \[pruning\] sparsity 0\.98"):
        check_settings(settings(0.98, policy=policy))
    check_settings(settings(0.95, policy=policy))


def test_fixed_rates_ask_nothing_of_the_most():
    check_settings(settings(0.98))


@pytest.mark.parametrize("rates", [{"quantile": 2.0}, {"sparsity_max": 1.0}, {"kappa": -1.0}], ids=str)
def test_rates_out_of_range_are_refused(rates):
    with pytest.raises(UsageError, match=next(iter(rates))):
        check_settings(settings(policy="capability", **rates))


def test_a_word_that_is_none_of_a_few_is_told_which_those_are():
    text = '[run]\nfolder = "r"\n[input]\nshape = [1]\n[link]\nallow_unsigned = true\n[rates]\npolicy = "capabilty"\n'
    with pytest.raises(UsageError, match=r"\[rates.policy\] .*'capabilty'; use one of fixed, capability, contribution"):
        load_settings(Path("a.toml"), text)
