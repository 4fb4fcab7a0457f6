"""Combining: how updates become a step, one rule one file. A new one is a file and its line here."""

from aggregator.core.combining.interface import COMBININGS, Combining, Stepped
from aggregator.core.combining.mean import Mean
from aggregator.core.combining.rescaled import RescaledStep
from aggregator.core.combining.unit import UnitStep

__all__ = ["COMBININGS", "Combining", "Mean", "RescaledStep", "Stepped", "UnitStep"]
