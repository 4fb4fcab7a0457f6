"""What an engine is: it opens an artifact and gives a trainer that steps, evaluates and tells its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, Parameter, decode_manifest
from device_runtime.wire.support import FloatArray, Kept, Support


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step saw: mean loss over `sample_count` samples, and how many were classified right (None for
    regression)."""

    loss: float
    sample_count: int
    correct_count: int | None


class Trainer(Protocol):
    """One opened artifact. Parameter names are those of the manifest's table."""

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """Set every parameter; masked weights get the support's mask, and are zero off it."""

    def step(self, x: FloatArray, y: NDArray[np.int64] | FloatArray, lr: float) -> StepStats:
        """One optimizer step on a batch x float32[n, ...], y int64[n] (or float32 like the output, for mse)."""

    def evaluate(self, x: FloatArray, y: NDArray[np.int64] | FloatArray) -> StepStats:
        """Loss and correct count of a batch, changing nothing."""

    def scores(self, x: FloatArray, y: NDArray[np.int64] | FloatArray) -> dict[str, FloatArray]:
        """The magnitude of the loss's gradient of a batch, for every prunable weight, dense: off its mask too.

        Taken as in a step, at the parameters as they are (zero off the mask), without proximal term and clipping. It
        changes nothing. Raises EngineError for a batch that does not fit, and where the artifact cannot give scores.
        """

    def remask(self, supports: Mapping[str, Support]) -> None:
        """Give prunable weights other masks in the middle of training.

        An element that is not on both its masks, the old and the new, becomes 0, and so does its optimizer state. All
        else goes on: other elements with their state, counts of steps, and what the proximal term pulls towards.
        Raises EngineError where the engine cannot reach its optimizer's state.
        """

    def kept(self) -> dict[str, Kept]:
        """The parameters now, on their supports."""


class Engine(Protocol):
    """A way to train. `version` names the library that runs."""

    name: str
    version: str

    def open(self, artifact: Path, *, threads: int, seed: int) -> Trainer:
        """A trainer for the artifact folder. Raises EngineError when it cannot be opened."""


def manifest_for(engine: str, artifact: Path) -> Manifest:
    """The manifest of an artifact folder. Raises EngineError when it is for another engine than `engine`."""
    manifest = decode_manifest((artifact / MANIFEST_FILE).read_bytes())
    if manifest.engine != engine:
        raise EngineError(f"the artifact in {artifact} is for engine {manifest.engine!r}, not {engine!r}.")
    return manifest


def kept_of(params: Mapping[str, Kept], parameter: Parameter) -> Kept:
    """The value to load for a parameter of the manifest. Raises EngineError when it is missing or has another shape."""
    kept = params.get(parameter.name)
    if kept is None or kept.support.shape != parameter.shape:
        found = "nothing" if kept is None else f"shape {kept.support.shape}"
        raise EngineError(f"parameter {parameter.name!r} needs shape {parameter.shape}, and got {found}.")
    return kept


def first_line(error: Exception) -> str:
    """The first line of a runtime's message, which may go on for a page."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
