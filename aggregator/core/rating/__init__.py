"""Rating: how sparse each device's submodel is, one rule one file. A new one is a file and its line here."""

from aggregator.core.rating.capability import Capability
from aggregator.core.rating.contribution import ByContribution
from aggregator.core.rating.fixed import Fixed
from aggregator.core.rating.interface import RATINGS, Rating

__all__ = ["RATINGS", "ByContribution", "Capability", "Fixed", "Rating"]
