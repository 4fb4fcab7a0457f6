"""Scoring: how contributions are measured, one rule one file. A new one is a file and its line here."""

from aggregator.core.scoring.cosine import Cosine
from aggregator.core.scoring.interface import SCORINGS, Scoring

__all__ = ["SCORINGS", "Cosine", "Scoring"]
