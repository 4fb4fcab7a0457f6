"""Topologies: how the mask moves, one rule one file. A new one is a file and its line here."""

from aggregator.core.topologies.by_devices import ByDevices
from aggregator.core.topologies.dynamic import Dynamic
from aggregator.core.topologies.interface import TOPOLOGIES, Topology, Turn
from aggregator.core.topologies.static import Static

__all__ = ["TOPOLOGIES", "ByDevices", "Dynamic", "Static", "Topology", "Turn"]
