"""Recipes: published methods by name, one file each. A new one is a file and its line here."""

from aggregator.recipes.fedavg import FedAvg
from aggregator.recipes.feddst import FedDst
from aggregator.recipes.fedprox import FedProx
from aggregator.recipes.interface import RECIPES, Recipe
from aggregator.recipes.thesis import Thesis

__all__ = ["RECIPES", "FedAvg", "FedDst", "FedProx", "Recipe", "Thesis"]
