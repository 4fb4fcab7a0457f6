"""Weighting: how much each device counts, one rule one file. A new one is a file and its line here."""

from aggregator.core.weighting.cgsv import Cgsv
from aggregator.core.weighting.interface import WEIGHTINGS, Weighting
from aggregator.core.weighting.samples import Samples
from aggregator.core.weighting.uniform import UniformWeights

__all__ = ["WEIGHTINGS", "Cgsv", "Samples", "UniformWeights", "Weighting"]
