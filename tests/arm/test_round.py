"""One real federated round with a device of another architecture: the aggregator here, the device on an emulated board.

Each CPU model is a real test: an instruction that it lacks ends the emulated process.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aggregator.demo.broker import Broker, start_broker
from aggregator.demo.plan import SITE
from device_runtime.wire.manifest import MANIFEST_FILE, decode_manifest
from device_runtime.wire.measurement import Measurement, Reading
from device_runtime.wire.messages import Assignment, Hello, Offer, Receipt
from device_runtime.wire.submodel import decode_kept, decode_supports
from device_runtime.wire.support import FloatArray
from device_runtime.wire.tensors import decode_files
from tests.arm.board import CPUS, Board
from tests.arm.federation import (
    BATCH,
    DEVICE,
    EPOCHS,
    ROUND_TIMEOUT_S,
    SAMPLES,
    On,
    one_round,
    start_on,
    write_pictures,
)
from tests.arm.recorder import Recorder, recorder
from tests.e2e.harness import fleet, processes_about, wait_until

pytestmark = [pytest.mark.arm, pytest.mark.e2e, pytest.mark.timeout(290)]

TOLERANCE = 1e-4
log = logging.getLogger(__name__)
# Convolutions, pooling and fully connected layers; and batch normalisation, whose running statistics are in the update.
SIDES = {"lenet5": 28, "resnet8": 12}  # width and height of the pictures, small because emulation is slow


@dataclass(frozen=True)
class Round:
    """What a device said and sent in its only round, as a third party saw it pass."""

    model: str
    engines: tuple[str, ...]
    offer: Offer
    update: dict[str, FloatArray]
    bytes_down: int
    verdict: str

    @property
    def measurement(self) -> Measurement:
        """What the device measured."""
        return self.offer.measurement


def _as_seen(seen: Recorder) -> Round:
    (assignment,) = {a.id: a for a in seen.all(Assignment)}.values()
    (offer,) = {o.update_sha: o for o in seen.all(Offer)}.values()
    manifest = decode_manifest(decode_files(seen.blob(assignment.graph_sha))[MANIFEST_FILE])
    supports = decode_supports(seen.blob(assignment.support_shas[0]), manifest.shapes())
    update = decode_kept(seen.blob(offer.update_sha), supports)
    return Round(
        model=manifest.model,
        engines=seen.all(Hello)[0].engines,
        offer=offer,
        update={name: kept.dense() for name, kept in update.items()},
        bytes_down=seen.bytes_to(SITE, DEVICE),
        verdict=seen.all(Receipt)[-1].verdict,
    )


def run_round(folder: Path, port: int, model: str, engine: str, on: On | None) -> Round:
    """One round with one device, here or on a board; everything has ended when it returns."""
    folder.mkdir()
    options = one_round(write_pictures(folder / "pictures.npz", SIDES[model]), engine, model)
    with recorder("127.0.0.1", port, SITE) as seen, fleet(options, folder / "run", port) as run:
        run.start("aggregator")
        start_on(on, run, DEVICE)
        run.finish(ROUND_TIMEOUT_S)
        assert run.accepted() == [(1, DEVICE)]
        assert processes_about(folder) == []
        wait_until(lambda: seen.all(Receipt), 10, "the receipt at the third party")
        return _as_seen(seen)


@pytest.fixture(scope="module", params=SIDES)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, board: Board) -> Round:
    """The same device on this machine, with the same engine. Asks for a board only so that none is a skip."""
    folder = tmp_path_factory.mktemp("here")
    broker = start_broker("auto", folder / "broker")
    try:
        return run_round(folder / "round", broker.port, request.param, "portable", None)
    finally:
        broker.stop()


def _is_measured(reading: Reading) -> bool:
    return reading.source == "measured" and reading.value is not None and reading.value > 0


@pytest.mark.parametrize("cpu", CPUS)
def test_update_of_an_arm_device_equals_that_of_an_x86_device(
    tmp_path: Path, board: Board, mosquitto: Broker, here: Round, cpu: str
) -> None:
    arm = run_round(tmp_path / "arm", mosquitto.port, here.model, "auto", On(board, cpu))
    assert arm.verdict == "accepted"
    assert arm.engines == ("portable",), "stock onnxruntime has no other engine"
    assert arm.update.keys() == here.update.keys()
    difference = max(float(np.abs(arm.update[n] - here.update[n]).max()) for n in here.update)
    largest = max(float(np.abs(values).max()) for values in here.update.values())
    log.info("%s on %s: largest change %.3g, largest difference %.3g", here.model, cpu, largest, difference)
    assert largest > 100 * TOLERANCE, "the round changed the model, or equality would mean nothing"
    assert difference <= TOLERANCE
    _assert_honest(arm, here, board)


def _assert_honest(arm: Round, here: Round, board: Board) -> None:
    """The measurement tells of the board what is so, and of the work what the other device says too."""
    m, other = arm.measurement, here.measurement
    assert (m.engine, m.engine_version) == ("portable", board.version_of("onnxruntime"))
    assert m.threads == 1
    assert m.step_count == other.step_count == EPOCHS * -(-SAMPLES // BATCH)
    assert (arm.offer.sample_count, m.sample_count) == (SAMPLES, EPOCHS * SAMPLES)
    assert (m.flops_dense, m.flops_ideal, m.flops_executed) == (
        other.flops_dense, other.flops_ideal, other.flops_executed,
    )  # fmt: skip
    for mine, its in ((m.loss_first, other.loss_first), (m.loss_last, other.loss_last)):
        assert mine.value == pytest.approx(its.value, abs=TOLERANCE)
    for phase in (m.load, m.train, m.serialise):
        assert _is_measured(phase.wall_ns)
    for reading in (m.step_ns_p50, m.step_ns_p90, m.rss_bytes, m.rss_peak_bytes, m.bytes_down):
        assert _is_measured(reading)
    assert (m.step_ns_p50.value or 0) <= (m.train.wall_ns.value or 0)
    assert (m.rss_bytes.value or 0) <= (m.rss_peak_bytes.value or 0) + 2**20  # the kernel's counters are not exact
    assert arm.offer.size_bytes < (m.bytes_down.value or 0) <= arm.bytes_down, "of what a third party saw pass"
    assert m.upload_previous.wall_ns.source == "absent", "there was no upload before the first"
