"""Engine `sparse`: the train step whose time is that of the kept weights, by compiled operators in onnxruntime.

Parameters and their states are vectors of kept values, so the optimizer touches nothing else. The mask is data: flat
indices and a stamp, which changes with them, so that the operators rebuild their lists when an assignment brings other
masks and at no other time. Lengths are those of the supports; buffers are made anew when they change.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.engines.interface import kept_of, manifest_for
from device_runtime.engines.onnxruntime_import import import_onnxruntime
from device_runtime.engines.portable.trainer import Array, Buffers, PortableTrainer
from device_runtime.engines.session import session_options
from device_runtime.engines.sparse.kind import SPARSE
from device_runtime.engines.sparse.library import KernelsLibrary
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import STAMP, Manifest, count_name, kept_name
from device_runtime.wire.support import Kept, Support

_PLAIN = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}
_GIVEN_PER_STEP = frozenset({"input", "labels"})


class SparseEngine:
    """Opens sparse artifacts with whichever onnxruntime is installed."""

    name = SPARSE.name

    def __init__(self) -> None:
        self._library = KernelsLibrary()
        runtime = str(import_onnxruntime().__version__)
        self.version = f"{runtime} with kernels {self._library.version} ({self._library.instructions})"

    def open(self, artifact: Path, *, threads: int, seed: int) -> "SparseTrainer":
        """A trainer for the artifact folder, on `threads` threads. Raises EngineError when it cannot be opened."""
        manifest = manifest_for(self.name, artifact)
        return SparseTrainer(artifact, manifest, threads=threads, seed=seed)


class SparseTrainer(PortableTrainer):
    """One session of the sparse train step; see `interface.Trainer`."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int) -> None:
        self._library = KernelsLibrary()
        self._library.share_among(threads)
        self._received: dict[str, Kept] = {}
        self._counts = dict.fromkeys((p.name for p in manifest.parameters), 0)
        super().__init__(artifact, manifest, threads=threads, seed=seed)

    def _options(self) -> Any:
        options = session_options(self._threads, SPARSE.session_entries)
        options.register_custom_ops_library(str(self._library.path))
        # Planned memory would stand beside what the first run took from the arena: up to a third more, at no gain.
        options.enable_mem_pattern = False
        return options

    def _open(self, file: str) -> Any:
        try:
            return super()._open(file)
        except EngineError as error:
            reason = str(error).replace(str(self._artifact), "")
            if "espalier:" in reason or "of the operators" in reason:
                raise self._library.missing_operator(reason) from error
            raise

    def _allocate(self) -> None:
        """Buffers for the supports' lengths: what a step replaces twice, everything else once."""
        given = {i.name: (i.shape, _PLAIN[i.type]) for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        lengths = {count_name(name): count for name, count in self._counts.items()}
        self._fixed, self._sets = Buffers(self._ort), (Buffers(self._ort), Buffers(self._ort))
        for name, (shape, kind) in given.items():
            if name not in _GIVEN_PER_STEP:
                length = tuple(lengths[axis] if isinstance(axis, str) else int(axis) for axis in shape)
                for buffers in self._sets if f"{name}.next" in outputs else (self._fixed,):
                    buffers.add(name, length, kind)
        self._fixed.add("loss", (), "float32")
        self._fixed.add("correct", (), "int64")
        self._bindings = (self._bind(0), self._bind(1))
        self._now = 0

    def load(self, params: Mapping[str, Kept], *, reset_optimizer: bool) -> None:
        """Set every parameter of the manifest, and the indices of the prunable ones.

        Raises EngineError when a parameter is missing or has another shape.
        """
        received = {p.name: kept_of(params, p) for p in self.manifest.parameters}
        states = {} if reset_optimizer else self._states()
        self._place({name: kept.support for name, kept in received.items()})
        current = self._sets[self._now].views
        for name, kept in received.items():
            current[name].reshape(-1)[...] = kept.values
        for state in self.manifest.states:
            before = states.get(state.name, np.zeros(state.shape, np.float32))
            current[state.name][...] = self._cut(state.name, before)
        if self.manifest.optimizer.proximal_mu:
            self._received = received
        self._pull_towards_received()

    def _pull_towards_received(self) -> None:
        """Set what the proximal term pulls towards: the values as they came, dense, on the supports as they are."""
        for name, kept in self._received.items():
            anchor = self._fixed.views.get(f"{name}.anchor")
            if anchor is not None:
                anchor.reshape(-1)[...] = self._supports[name].gather(kept.dense())

    def _place(self, supports: dict[str, Support]) -> None:
        """Make room for these supports and tell the operators, unless they are those of the last load."""
        if {n: s.sha for n, s in self._supports.items()} == {n: s.sha for n, s in supports.items()}:
            return
        stamp = int(self._fixed.views[STAMP]) + 1
        counts = {name: support.count for name, support in supports.items()}
        if counts != self._counts:
            self._counts = counts
            self._allocate()
        self._supports = supports
        self._fixed.views[STAMP][...] = stamp
        for name, support in supports.items():
            indices = self._fixed.views.get(kept_name(name))
            if indices is not None:
                indices[...] = np.flatnonzero(support.dense_mask())

    def _states(self) -> dict[str, Array]:
        """What the optimizer remembers, in dense form, so that other supports can take it over."""
        current = self._sets[self._now].views
        dense = {}
        for state in self.manifest.states:
            owner = self._owner(state.name)
            vector = current[state.name]
            dense[state.name] = owner.scatter(vector.reshape(-1)) if owner is not None else vector.copy()
        return dense

    def _cut(self, state: str, dense: Array) -> Array:
        """A state in dense form as the vector that the graph takes."""
        owner = self._owner(state)
        shape = self._sets[self._now].views[state].shape
        return dense if owner is None else owner.gather(dense).reshape(shape)

    def _owner(self, state: str) -> Support | None:
        """Where the parameter lies that a state belongs to; None for a state of the whole model."""
        return next((s for name, s in self._supports.items() if self._is_of(state, name)), None)

    @staticmethod
    def _is_of(state: str, parameter: str) -> bool:
        return state.rpartition(".")[0] == parameter

    def remask(self, supports: Mapping[str, Support]) -> None:
        """Other masks in the middle of training; see `interface.Trainer`."""
        values, states = self._parameters(), self._states()
        for name, support in supports.items():
            changed = ~(self._supports[name].dense_mask() & support.dense_mask())
            for held in (values[name], *(dense for state, dense in states.items() if self._is_of(state, name))):
                held[changed] = 0
        self._place({**self._supports, **supports})
        current = self._sets[self._now].views
        for name, dense in values.items():
            current[name].reshape(-1)[...] = self._supports[name].gather(dense)
        for state, dense in states.items():
            current[state][...] = self._cut(state, dense)
        self._pull_towards_received()

    def _parameters(self) -> dict[str, Array]:
        return {name: kept.dense() for name, kept in self.kept().items()}

    def kept(self) -> dict[str, Kept]:
        """The parameters now, on their supports, copied out of the runtime."""
        current = self._sets[self._now].views
        return {n: Kept(current[n].reshape(-1).copy(), support) for n, support in self._supports.items()}
