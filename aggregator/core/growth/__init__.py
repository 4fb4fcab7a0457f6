"""Growth: which pruned weights come back, one rule one file. A new one is a file and its line here."""

from aggregator.core.growth.interface import GROWTHS, Growth
from aggregator.core.growth.random import RandomGrowth

__all__ = ["GROWTHS", "Growth", "RandomGrowth"]
