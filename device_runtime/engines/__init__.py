"""Ways to train one artifact, behind one interface; an engine is imported only when it is asked for."""

from device_runtime.engines.interface import Engine, StepStats, Trainer
from device_runtime.engines.registry import available_engines, engine_names, offered_engines, open_engine

__all__ = ["Engine", "StepStats", "Trainer", "available_engines", "engine_names", "offered_engines", "open_engine"]
