"""The model of a run: what is known of it, and how it is evaluated. No state: parameters come and go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.artifacts import Artifacts
from aggregator.core.dense_model import ModelState, sparse_params
from aggregator.core.method import Facts
from aggregator.evaluation import Evaluator, Score, StatisticsEstimator
from aggregator.settings import Settings
from device_runtime.data import checked, load_npz, prepare
from device_runtime.store import BlobStore
from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import Params
from export.artifacts.spec import ArtifactSpec
from export.forward.values import batch_statistics, forward_with, parameterised_forward
from export.models.sources import load_model
from export.steps.optimizers import choose_optimizer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one state of the model on the held-out set; None where there is no such set, or none to be had."""

    dense: Score | None
    sparse: Score | None


class RunModel:
    """The model that a run trains. Raises UsageError for settings, data or a model that do not fit one another."""

    def __init__(self, settings: Settings, *, threads: int = 1) -> None:
        self._settings = settings
        m = settings.model
        self._forward = load_model(
            zoo=m.name, torch=m.torch, onnx_file=m.onnx, input_shape=settings.input.shape, class_count=m.classes,
            seed=settings.run.seed,
        )  # fmt: skip
        self.parameters = self._forward.parameters
        self.facts = Facts(
            shapes={p.name: p.shape for p in self.parameters},
            roles={p.name: p.role for p in self.parameters},
            prunable=frozenset(p.name for p in self.parameters if p.prunable),
            initial=self._forward.initial,
        )
        if not self.facts.prunable:
            raise UsageError(
                f"model {self.name!r} has no prunable weight: it needs a convolution or a fully connected layer."
            )
        self._evaluator = self._make_evaluator(threads)
        self._estimator = self._make_estimator(threads)

    @property
    def name(self) -> str:
        """What the settings call the model."""
        m = self._settings.model
        return m.torch or m.onnx or m.name

    @property
    def parameter_count(self) -> int:
        """How many values the dense model has, statistics included."""
        return sum(int(np.prod(p.shape, dtype=np.int64)) for p in self.parameters)

    @property
    def has_statistics(self) -> bool:
        """Whether the model has running statistics, which are the sparse model's: the dense one's are not known."""
        return self._forward.has_statistics

    def evaluate(self, model: ModelState) -> Evaluation:
        """Dense and sparse; a dense model whose running statistics are the sparse one's is not scored."""
        if self._evaluator is None:
            return Evaluation(None, None)
        dense: Score | None
        if self._estimator is not None:
            dense = self._evaluator.score(self._estimator.with_statistics(model.theta))
        else:
            dense = None if self.has_statistics else self._evaluator.score(model.theta)
        return Evaluation(dense, self._evaluator.score(sparse_params(model)))

    def forward_bytes(self, params: Params) -> bytes:
        """The inference graph with these parameters, as ONNX bytes."""
        return forward_with(self._forward, params).to_bytes()

    def artifacts(self, folder: Path, blobs: BlobStore, *, scores: bool) -> Artifacts:
        """The artifacts of the model, one written at once: a model that cannot be trained is refused before any device
        waits. scores: whether devices will be asked for gradients of weights off the mask.
        """
        artifacts = Artifacts(folder, blobs, self._forward, self._artifact_spec(scores))
        artifacts.for_any()
        return artifacts

    def _artifact_spec(self, scores: bool) -> ArtifactSpec:
        """What devices are to be able to do with the model."""
        m, t = self._settings.model, self._settings.training
        optimizer = choose_optimizer(
            t.optimizer,
            momentum=t.momentum if t.optimizer == "sgd" else 0.0,
            nesterov=t.nesterov,
            weight_decay=t.weight_decay,
            clip_norm=t.clip_norm,
            proximal_mu=t.proximal_mu,
        )
        return ArtifactSpec(
            name=self.name,
            input=self._settings.input,
            class_count=m.classes,
            loss=m.loss,
            optimizer=optimizer,
            scores=scores,
        )

    def _make_evaluator(self, threads: int) -> Evaluator | None:
        path, m = self._settings.run.held_out, self._settings.model
        if not path:
            return None
        arrays = _arrays(path, "held-out", ("x_test", "y_test"))
        data = checked(arrays["x_test"], arrays["y_test"], path)
        held_out = prepare(data, self._settings.input, m.loss, m.classes)
        return Evaluator(parameterised_forward(self._forward), held_out, m.loss, threads=threads)

    def _make_estimator(self, threads: int) -> StatisticsEstimator | None:
        path = self._settings.run.calibration
        if not path or not self.has_statistics:
            return None
        x = _arrays(path, "calibration", ("x",))["x"]
        samples = prepare(checked(x, np.zeros(len(x), dtype=np.int64), path), self._settings.input, "cross_entropy", 1)
        return StatisticsEstimator(batch_statistics(self._forward), samples.x, threads=threads)


def _arrays(path: str, what: str, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """The arrays of a data file. Raises UsageError naming the first that is missing."""
    arrays = load_npz(Path(path))
    for name in names:
        if name not in arrays:
            raise UsageError(f"{what} file {path!r} has no array {name!r}; it has: {', '.join(arrays)}.")
    return arrays
