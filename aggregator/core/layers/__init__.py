"""Layer rules: how dense each layer is, one rule one file. A new one is a file and its line here."""

from aggregator.core.layers.er import Er
from aggregator.core.layers.erk import Erk
from aggregator.core.layers.erk_sparsity import ErkSparsity
from aggregator.core.layers.interface import LAYER_RULES, LayerRule
from aggregator.core.layers.uniform import UniformLayers

__all__ = ["LAYER_RULES", "Er", "Erk", "ErkSparsity", "LayerRule", "UniformLayers"]
