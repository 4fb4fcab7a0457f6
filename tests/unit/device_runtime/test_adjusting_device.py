"""A whole device that moves its masks, over a link in memory: what it offers, also after a kill in the middle."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.simulation.memory_link import MemoryBroker
from aggregator.simulation.seat import Seat
from aggregator.simulation.timeline import Timeline
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.engines import available_engines
from device_runtime.engines.portable.trainer import PortableTrainer
from device_runtime.runner import Device
from device_runtime.surroundings import Arrived, Station
from device_runtime.wire.draws import Draws
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.messages import Chunk, Get, Hello, Hyper, MaskAdjustment, Message, Offer
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.submodel import encode_kept, encode_supports
from device_runtime.wire.support import Support, cut, sha256_hex
from device_runtime.wire.tensors import encode_files
from device_runtime.wire.topics import down_topic, up_filter
from device_runtime.wire.update import decode_update
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.parameters import initial_params, parameter_table
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests import fakes

pytestmark = pytest.mark.skipif("portable" not in available_engines(), reason="needs onnxruntime")
SITE, DEVICE = "hall", "pi-1"
MODEL = build_model("mlp", (6,), 3, seed=5, hidden=(10, 8))
PARAMETERS = parameter_table(MODEL)
SUPPORTS = {
    p.name: Support.from_mask(Draws(1, "mask", p.name).uniform(int(np.prod(p.shape))).reshape(p.shape) < 0.5)
    if p.prunable
    else Support.everything(p.shape)
    for p in PARAMETERS
}


class Killed(BaseException):
    """The process ends here."""


class Bench:
    """The aggregator's end by hand: it greets with one assignment, serves its blobs and pulls the update."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.timeline = Timeline()
        self.broker = MemoryBroker(self.timeline)
        self.seat = Seat(self.broker, tick_s=0.25, work_s=1.0)
        self.link = self.broker.open_link(Station("by hand", (up_filter(SITE),)), self._heard)
        self.link.connect()
        self.offer: Offer | None = None
        self.update: bytes | None = None
        spec = ArtifactSpec(
            name="mlp", input=InputSpec(shape=(6,)), class_count=3, loss="cross_entropy",
            optimizer=choose_optimizer("sgd", momentum=0.9), scores=True,
        )  # fmt: skip
        writer_of("portable")(MODEL, spec, folder / "artifact")
        files = {path.name: path.read_bytes() for path in sorted((folder / "artifact").iterdir())}
        kept = encode_kept(cut(initial_params(MODEL), SUPPORTS), lambda _: "fp32", lambda n: Draws(0, "unused", n))
        blobs = [encode_files(files), kept, encode_supports(SUPPORTS)]
        self.blobs = {sha256_hex(data): data for data in blobs}
        graph_sha, params_sha, support_sha = self.blobs
        self.assignment = msgspec.structs.replace(
            fakes.assignment(DEVICE, adjust=MaskAdjustment(after_epochs=1, share=0.4)),
            graph_sha=graph_sha, params_sha=params_sha, support_shas=(support_sha,),
            hyper=Hyper(seed=7, epoch_count=3, batch_size=8, learning_rate=0.05, update_dtype="int8"),
        )  # fmt: skip
        rng = np.random.default_rng(0)
        y = rng.integers(0, 3, 20)
        np.savez(folder / "data.npz", x=(rng.normal(size=(20, 6)) + y[:, None]).astype(np.float32), y=y)

    def begin(self) -> None:
        """Start the device's process, on the disk of the one before."""
        settings = DeviceSettings(
            name=DEVICE, folder=str(self.folder / DEVICE), data=DataSettings(source=str(self.folder / "data.npz")),
            link=LinkSettings(site=SITE, allow_unsigned=True), engine="portable",
        )  # fmt: skip
        self.seat.take(Device(settings, self.seat.surroundings))

    def kill(self) -> None:
        """End it."""
        self.seat.shell = None
        assert self.seat.link is not None
        self.seat.link.dead()

    def run(self, until: Callable[[], object]) -> None:
        """Let things happen until something holds."""
        assert self.timeline.run(lambda: bool(until()), 120)

    def _send(self, message: Message) -> None:
        self.link.publish(down_topic(SITE, DEVICE), encode_message(message))

    def _heard(self, event: object) -> None:
        if not isinstance(event, Arrived):
            return
        match decode_message(event.payload, allow_unsigned=True):
            case Hello() if self.offer is None:
                self._send(self.assignment)
            case Get(sha=sha, indices=indices):
                for index in indices:
                    if chunk := fakes.cut_chunk(self.blobs[sha], sha, index):
                        self._send(chunk)
            case Offer() as offer:
                self.offer = offer
                self._send(Get(sha=offer.update_sha, indices=(0,)))
            case Chunk(data=data):
                self.update = data


def offered(bench: Bench) -> tuple[Offer, bytes]:
    """What the device offers in the end, and the bytes it serves."""
    bench.run(lambda: bench.update)
    assert bench.offer is not None
    assert bench.update is not None
    return bench.offer, bench.update


def test_an_adjusting_device_offers_an_update_that_says_where_it_lies(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    offer, update = offered(bench)
    assert offer.extras == ("mask",)
    kept = decode_update(update, offer, bench.assignment, SUPPORTS, PARAMETERS)
    for name in ("fc1.weight", "fc2.weight"):
        assert kept[name].support.count == SUPPORTS[name].count
        assert kept[name].support.sha != SUPPORTS[name].sha


@pytest.mark.parametrize("turn", [0, 1, 2], ids=["before anything goes", "before anything comes", "after both"])
def test_a_device_killed_while_its_masks_move_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    for name in ("quiet", "killed"):
        (tmp_path / name).mkdir()
    quiet, killed = Bench(tmp_path / "quiet"), Bench(tmp_path / "killed")
    quiet.begin()
    expected = offered(quiet)
    calls, remask, step = [], PortableTrainer.remask, PortableTrainer.step

    def mortal_remask(self: PortableTrainer, supports: dict[str, Support]) -> None:
        if len(calls) == turn:
            raise Killed
        calls.append("remask")
        remask(self, supports)

    def mortal_step(self: PortableTrainer, *arguments: object) -> object:
        if len(calls) == 2:
            raise Killed
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PortableTrainer, "remask", mortal_remask)
        patch.setattr(PortableTrainer, "step", mortal_step)
        killed.begin()
        with pytest.raises(Killed):
            killed.run(lambda: killed.offer)
    assert len(calls) == turn
    killed.kill()
    killed.begin()
    offer, update = offered(killed)
    assert (offer.update_sha, update) == (expected[0].update_sha, expected[1])


def test_a_device_whose_data_changed_while_it_offered_trains_again_and_counts_what_it_has(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    before, _ = offered(bench)
    bench.kill()
    with np.load(tmp_path / "data.npz") as data:
        x, y = data["x"][:12], data["y"][:12]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    bench.offer = bench.update = None
    bench.begin()
    offer, _ = offered(bench)
    assert (before.sample_count, offer.sample_count) == (20, 12)
    assert offer.assignment_id == before.assignment_id
    assert offer.update_sha != before.update_sha
