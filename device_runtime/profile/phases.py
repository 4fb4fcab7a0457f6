"""The phases of a round, each by itself: load and serialise as the device does them, and one training step."""

import itertools
import math
import time
from collections.abc import Callable, Sequence

from device_runtime.data import Samples
from device_runtime.engines import Trainer
from device_runtime.profile.record import PhaseSamples
from device_runtime.profile.subject import LEARNING_RATE
from device_runtime.training import value_type
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import LocalWireError
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.submodel import decode_kept, decode_supports, encode_kept, encode_supports
from device_runtime.wire.support import Kept

OFFLINE = PhaseSamples(source="absent", note="an offline profile moves no bytes; a round's measurement has this phase")


class Round:
    """One device's work on one submodel, as blobs in and a blob out."""

    def __init__(self, manifest: Manifest, trainer: Trainer, sent: dict[str, Kept], seed: int) -> None:
        self._manifest, self._trainer, self._seed = manifest, trainer, seed
        self.params = encode_kept(sent, lambda _: "fp32", self._draws)
        self.supports = encode_supports({n: k.support for n, k in sent.items()})
        self._received: dict[str, Kept] = {}
        self.loss = 0.0

    def load(self) -> None:
        """Decode both blobs and give them to the engine, which forgets its optimizer's state."""
        known = decode_supports(self.supports, self._manifest.shapes())
        self._received = decode_kept(self.params, known)
        self._trainer.load(self._received, reset_optimizer=True)

    def stepper(self, batches: Sequence[Samples]) -> Callable[[], None]:
        """A function that takes one step, with the batches in turn."""
        turn = itertools.cycle(batches)

        def step() -> None:
            batch = next(turn)
            self.loss = self._trainer.step(batch.x, batch.y, LEARNING_RATE).loss

        return step

    @property
    def is_finite(self) -> bool:
        """Whether the last loss was a number."""
        return math.isfinite(self.loss)

    def serialise(self) -> bytes:
        """The update, local minus received on the support, as fp32. Raises LocalWireError where training diverged."""
        local = self._trainer.kept()
        delta = {n: Kept(local[n].values - kept.values, kept.support) for n, kept in self._received.items()}
        roles = {p.name: p.role for p in self._manifest.parameters}
        return encode_kept(delta, lambda name: value_type(roles[name], "fp32"), self._draws)

    def _draws(self, name: str) -> Draws:
        return Draws(self._seed, "profile rounding", name)


def sample(call: Callable[[], object], repeats: int) -> PhaseSamples:
    """Call so often, and keep wall and CPU time of each; absent where the numbers can no longer be sent."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter_ns(), time.process_time_ns()
        try:
            call()
        except LocalWireError as error:
            return PhaseSamples(source="absent", note=str(error))
        wall.append(time.perf_counter_ns() - start)
        cpu.append(time.process_time_ns() - busy)
    return PhaseSamples(source="measured", wall_ns=tuple(wall), cpu_ns=tuple(cpu))
