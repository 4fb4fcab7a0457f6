"""Residuals: what the aggregator keeps of pruned weights, one rule one file. A new one is a file and its line here."""

from aggregator.core.residuals.interface import RESIDUALS, Residual
from aggregator.core.residuals.keep import Keep
from aggregator.core.residuals.trained import Trained
from aggregator.core.residuals.zero import Zero

__all__ = ["RESIDUALS", "Keep", "Residual", "Trained", "Zero"]
