"""Criteria: which weights stay, one rule one file. A new one is a file and its line here."""

from aggregator.core.criteria.interface import CRITERIA, Criterion
from aggregator.core.criteria.magnitude import Magnitude

__all__ = ["CRITERIA", "Criterion", "Magnitude"]
