"""The options of `espalier demo` become what a settings file would say, and what is left to the recipe is left out."""

import inspect

from aggregator.demo import choices
from aggregator.demo.command import demo
from aggregator.settings import Settings, settings_of

GIVEN = {name: p.default for name, p in inspect.signature(demo).parameters.items() if name != "context"}


def test_what_nobody_chose_is_left_to_the_recipe() -> None:
    tables = choices.options_of(GIVEN).tables
    assert tables["method"] == "thesis"
    assert set(tables) == {"method", "training", "pruning"}
    assert tables["pruning"] == {"dense_rounds": 0}
    assert "proximal_mu" not in tables["training"]


def test_every_option_that_is_a_key_of_a_settings_file_is_read_there() -> None:
    chosen = GIVEN | {"sparsity": 0.5, "proximal_mu": 0.25, "weighting": "samples", "residual": "zero", "lr": 0.5}
    tables = choices.options_of(chosen).tables
    found = settings_of({"run": {"folder": "x"}, "input": {"shape": [4]}, **tables}, "x.toml")
    assert isinstance(found, Settings)
    assert (found.pruning.sparsity, found.training.proximal_mu, found.training.learning_rate) == (0.5, 0.25, 0.5)
    assert (found.training.batch_size, found.training.local_epochs, found.training.update_dtype) == (32, 3, "fp16")


def test_momentum_is_of_sgd_and_one_device_is_not_the_noisy_one() -> None:
    assert choices.options_of(GIVEN | {"optimizer": "adamw"}).tables["training"]["momentum"] == 0.0
    assert choices.options_of(GIVEN | {"devices": 1}).noise == "none"
    assert choices.options_of(GIVEN | {"devices": 1, "noise": "pair:0.1@1"}).noise == "pair:0.1@1"
    assert choices.options_of(GIVEN | {"model": "net.onnx"}).model.onnx == "net.onnx"
    assert choices.options_of(GIVEN | {"model": "m:f"}).model.torch == "m:f"
