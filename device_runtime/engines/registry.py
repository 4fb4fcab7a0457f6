"""The engines that there are: entry points of the group `espalier.engines`, and the one that is asked for.

An entry point names an `EngineKind`, and is called as the engine is. The group is read from what is installed, so an
engine may come with another distribution.
"""

import importlib.metadata

from device_runtime.engines.interface import Engine
from device_runtime.engines.kind import EngineKind
from device_runtime.wire.errors import EngineError

GROUP = "espalier.engines"


def engine_kinds() -> dict[str, EngineKind]:
    """Every registered engine by name, best first: by preference and then by name, in whatever order they are found.

    Raises EngineError for an entry point that gives no engine, for two of one name, and where there is none at all.
    """
    kinds: dict[str, EngineKind] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        kind = _kind_of(point)
        if kinds.setdefault(kind.name, kind) is not kind:
            raise EngineError(f"two engines are called {kind.name!r}: uninstall one of the packages that bring them.")
    if not kinds:
        raise EngineError(
            f"no entry point {GROUP!r} is installed, so there is no engine: install espalier-fl again (in a checkout "
            "after its pyproject.toml changed: pip install --editable .)."
        )
    return dict(sorted(kinds.items(), key=lambda item: (-item[1].preference, item[0])))


def _kind_of(point: importlib.metadata.EntryPoint) -> EngineKind:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {point.name!r} ({point.value}) cannot be loaded: {error}; reinstall it.") from error
    if not isinstance(kind, EngineKind) or kind.name != point.name:
        raise EngineError(f"entry point {point.name!r} ({point.value}) gives no engine of that name: correct it.")
    return kind


def engine_names() -> tuple[str, ...]:
    """The names of all registered engines, best first."""
    return tuple(engine_kinds())


def engine_kind(name: str) -> EngineKind:
    """The registered engine of that name. Raises EngineError with the known ones where there is none."""
    kinds = engine_kinds()
    if name not in kinds:
        raise EngineError(f"there is no engine {name!r}; engines are: auto, {', '.join(kinds)}.")
    return kinds[name]


def available_engines() -> tuple[str, ...]:
    """The engines that can run in this environment, best first, without importing them."""
    return tuple(name for name, kind in engine_kinds().items() if kind.is_installed())


def chosen_kind(setting: str) -> EngineKind:
    """The engine that a setting names, or for "auto" the best that can run here. Raises EngineError for none."""
    if setting != "auto":
        return engine_kind(setting)
    kinds = engine_kinds().values()
    best = next((kind for kind in kinds if kind.is_installed()), None)
    if best is None:
        needs = "; ".join(f"{kind.name} needs {kind.needs}" for kind in kinds)
        raise EngineError(f"no engine can run here, for what they need is not installed in this environment: {needs}.")
    return best


def open_engine(setting: str) -> Engine:
    """The engine that a setting names, or for "auto" the best that can run here.

    Raises EngineError when it is unknown or not installed, saying what to install.
    """
    return chosen_kind(setting).load_engine()


def offered_engines(setting: str) -> tuple[str, ...]:
    """The engines that a device with this setting offers in its hello, best first: all that run here for "auto".

    The best of them is opened, so that a device that cannot train says so before it joins: raises EngineError.
    """
    best = open_engine(setting).name
    return available_engines() if setting == "auto" else (best,)
