"""A device keeps a layer for itself: the same bits through kills, nothing of it on the broker, and a model with it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper

from aggregator.demo.broker import Broker, find_binary, start_broker
from aggregator.demo.plan import Options, device_arrays, make_plan, write_plan
from aggregator.simulation.in_process import InProcessRun, run_in_process
from device_runtime.data import LocalData
from device_runtime.engines import available_engines
from device_runtime.link import MqttLink
from device_runtime.personal import LAST, Choice
from device_runtime.personal_file import PERSONAL_FILE
from device_runtime.surroundings import Arrived, Inbox, Station
from device_runtime.wire.envelope import decode_message
from device_runtime.wire.manifest import decode_manifest
from device_runtime.wire.messages import Chunk, Offer
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.submodel import decode_supports
from device_runtime.wire.tensors import decode_tensors
from tests.e2e.harness import ENVIRONMENT, Fleet, espalier, fleet, params_bytes, wait_until

pytestmark = pytest.mark.e2e

HEAD = ("fc3.bias", "fc3.weight")
PERSONAL: dict[str, Choice] = {"device-01": LAST, "device-03": HEAD}
# Masks move in every round, so that weights of the personal layer leave and come.
OPTIONS = Options(
    rounds=4, devices=3, seed=5, noise="none",
    tables={"training": {"local_epochs": 20}, "topology": {"every_rounds": 1, "prune_share": 0.4}},
)  # fmt: skip


@contextmanager
def personal_fleet(
    options: Options, folder: Path, port: int, personal: dict[str, Choice] | None = None
) -> Iterator[Fleet]:
    """A federation in which some devices keep tensors for themselves."""
    chosen = PERSONAL if personal is None else personal
    with fleet(options, folder, port) as run:
        devices = tuple(msgspec.structs.replace(d, personal=chosen.get(d.name, ())) for d in run.plan.devices)
        run.plan = replace(run.plan, devices=devices)
        write_plan(options, run.plan, run.plan.settings.link.host, port)
        yield run


def undisturbed(options: Options, folder: Path, engine: str) -> InProcessRun:
    """The same run without a broker, in this process."""
    plan = make_plan(options, folder / "plan")
    arrays = device_arrays(options, plan)
    data = {d.name: LocalData(x, y, d.name) for d, (x, y) in zip(plan.devices, arrays, strict=True)}
    section = msgspec.structs.replace(plan.settings.run, folder=str(folder), held_out="")
    return run_in_process(msgspec.structs.replace(plan.settings, run=section), data, folder, engine, PERSONAL)


def personal_file(run: Fleet, name: str) -> Path:
    """Where a device keeps its layer."""
    return run.folder / "devices" / name / PERSONAL_FILE


def assert_as_if_undisturbed(run: Fleet, expected: InProcessRun) -> None:
    """The aggregator's model and every device's own layer end with the expected bits."""
    run.finish()
    assert run.accepted() == [(r, d) for r in range(1, OPTIONS.rounds + 1) for d in run.names]
    assert params_bytes(run.folder) == safetensors.numpy.save(dict(expected.state.model.theta))
    for name in PERSONAL:
        own = safetensors.numpy.load(personal_file(run, name).read_bytes())
        assert {n: v.tobytes() for n, v in own.items()} == {n: v.tobytes() for n, v in expected.personal[name].items()}
    assert not personal_file(run, "device-02").exists()


# A device that ends itself by SIGKILL after so many files of its personal tensors: two are written in every round.
DIES = """
import os, signal, sys
from device_runtime import personal_file
from device_runtime.cli import main
write, left = personal_file.write_atomic, [int(sys.argv.pop(1))]
def write_and_die(path, data):
    write(path, data)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
personal_file.write_atomic = write_and_die
main()
"""


def start_to_die(run: Fleet, name: str, writes: int) -> None:
    """Start a device that dies of itself, with its output in the files that the harness reads."""
    config = run.folder / "devices" / name / "device.toml"
    line = [sys.executable, "-c", DIES, str(writes), "device", "run", "--config", str(config), "-v"]
    with open(run.folder / "output" / f"{name}.err", "ab") as err:
        run.running[name] = subprocess.Popen(
            line, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err
        )


@pytest.mark.parametrize("engine", available_engines())
def test_a_kill_between_training_and_offer_changes_no_bit(engine: str, tmp_path: Path, mosquitto: Broker) -> None:
    options = msgspec.structs.replace(OPTIONS, engine=engine)
    expected = undisturbed(options, tmp_path / "in-process", engine)
    with personal_fleet(options, tmp_path / "run", mosquitto.port) as run:
        run.start("aggregator", "device-02")
        start_to_die(run, "device-01", 3)  # in round 2, once its beginning is kept and its end is not
        for _ in range(2):  # in round 1, once its end is kept, before the offer; and once more
            start_to_die(run, "device-03", 2)
            assert run.wait("device-03") == -signal.SIGKILL
        run.start("device-03")
        assert run.wait("device-01") == -signal.SIGKILL
        start_to_die(run, "device-01", 2)  # in round 2, before the offer
        assert run.wait("device-01") == -signal.SIGKILL
        run.start("device-01")
        assert_as_if_undisturbed(run, expected)


def test_a_kill_while_offering_changes_no_bit(tmp_path: Path, mosquitto: Broker) -> None:
    engine = available_engines()[0]
    # Enough epochs that the aggregator is stopped well before the offer.
    options = msgspec.structs.replace(
        OPTIONS, engine=engine, tables={**OPTIONS.tables, "training": {"local_epochs": 120}}
    )
    expected = undisturbed(options, tmp_path / "in-process", engine)
    with personal_fleet(options, tmp_path / "run", mosquitto.port) as run:
        run.start_all()
        wait_until(lambda: run.log("device-01").count("fetching -> training") >= 2, 20, "training of round 2")
        run.signal("aggregator", signal.SIGSTOP)
        spool = run.folder / "devices" / "device-01" / "spool.json"
        wait_until(lambda: spool.exists() and b"-2-0-device-01" in spool.read_bytes(), 20, "offer of round 2")
        run.end("device-01", signal.SIGKILL)
        run.signal("aggregator", signal.SIGCONT)
        run.end("aggregator", signal.SIGKILL)
        run.start("aggregator", "device-01")
        assert_as_if_undisturbed(run, expected)
        assert run.log("device-01").count("round 2 trained") == 1, "the update came from the spool"


# --- what travels -------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Everything that is published at a site, as a client beside the others hears it."""

    port: int
    heard: list[Arrived] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record until the end of the block."""
        inbox = Inbox()
        link = MqttLink(LinkSettings(port=self.port, allow_unsigned=True), Station("recorder", ("#",)), inbox.put)
        stop = threading.Event()

        def listen() -> None:
            while (event := inbox.take(0.1)) is not None or not stop.is_set():
                if isinstance(event, Arrived):
                    self.heard.append(event)

        thread = threading.Thread(target=listen)
        link.connect()
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            link.close()

    def updates(self) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        """The tensors of every update that was offered, by device and assignment."""
        offers: dict[str, Offer] = {}
        chunks: dict[str, dict[int, bytes]] = {}
        for arrived in self.heard:
            if not arrived.topic.endswith("/up"):
                continue
            match decode_message(arrived.payload, allow_unsigned=True):
                case Offer() as offer:
                    offers[offer.update_sha] = offer
                case Chunk() as chunk:
                    chunks.setdefault(chunk.sha, {})[chunk.index] = chunk.data
        assert set(chunks) <= set(offers), "a device publishes no other blobs than its updates"
        joined = {sha: b"".join(data for _, data in sorted(parts.items())) for sha, parts in chunks.items()}
        return {(offers[s].device, offers[s].assignment_id): decode_tensors(data) for s, data in joined.items()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Recorder]]:
    """A finished run of both engines, two devices with a layer of their own and one without, and what was heard."""
    if find_binary("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("mixed")
    broker = start_broker("mosquitto", folder / "broker")
    options = msgspec.structs.replace(OPTIONS, engine=",".join(available_engines()))
    try:
        recorder = Recorder(broker.port)
        with recorder.listening(), personal_fleet(options, folder / "run", broker.port) as run:
            run.start_all()
            run.finish()
            yield_after = run
        yield yield_after, recorder
    finally:
        broker.stop()


def test_nothing_of_a_personal_layer_is_on_the_broker(mixed: tuple[Fleet, Recorder]) -> None:
    run, recorder = mixed
    updates = recorder.updates()
    assert len(updates) == OPTIONS.rounds * OPTIONS.devices
    for (device, assignment), tensors in updates.items():
        names = {name.partition("#")[0] for name in tensors}
        assert names >= {"fc1.weight", "fc2.weight"}
        assert (names & set(HEAD)) == (set() if device in PERSONAL else set(HEAD)), assignment
    offers = [m for a in recorder.heard if isinstance(m := decode_message(a.payload, allow_unsigned=True), Offer)]
    assert {o.device: o.kept_back for o in offers} == {"device-01": HEAD, "device-02": (), "device-03": HEAD}
    for name in PERSONAL:  # nor do its values lie in any message in some other dress
        bias = safetensors.numpy.load(personal_file(run, name).read_bytes())["fc3.bias"]
        up = b"".join(a.payload for a in recorder.heard if a.topic.endswith(f"/{name}/up"))
        assert not any(value.tobytes() in up for value in bias)


def test_result_and_inspection_tell_what_is_kept_back(mixed: tuple[Fleet, Recorder]) -> None:
    run, _ = mixed
    result = json.loads((run.folder / "result.json").read_text())
    assert {d["name"]: d["kept_back"] for d in result["devices"]} == {
        "device-01": list(HEAD), "device-02": [], "device-03": list(HEAD)
    }  # fmt: skip
    assert result["final"]["uploaded_by_nobody"] == []
    assert not run.events("note")
    shown = json.loads(espalier("aggregator", "devices", run.folder, "--json").stdout)
    assert {d["device"]: d["kept_back"] for d in shown} == {
        "device-01": "fc3.bias fc3.weight", "device-02": None, "device-03": "fc3.bias fc3.weight"
    }  # fmt: skip
    table = espalier("aggregator", "devices", run.folder).stdout
    assert "device-03 keeps for itself: fc3.bias fc3.weight" in table
    assert "device-02 keeps" not in table


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_model_with_the_devices_layer_is_exported_and_proven(
    form: str, mixed: tuple[Fleet, Recorder], tmp_path: Path
) -> None:
    run, _ = mixed
    if form == "tflite":
        pytest.importorskip("ai_edge_litert")
    path, out = personal_file(run, "device-01"), tmp_path / f"own.{form}"
    ended = espalier("export", form, run.folder, "--replace", path, "--out", out, "--json", timeout_s=120)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["verification"]["failures"] == []
    assert report["inspection"]["provenance"]["replaced"] == list(HEAD)
    if form == "onnx":
        own = safetensors.numpy.load(path.read_bytes())
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
        assert any(np.array_equal(np.sort(v, axis=None), np.sort(own["fc3.bias"])) for v in stored.values())
        folder = run.folder / "models" / str(OPTIONS.rounds)
        shapes = decode_manifest((folder / "manifest.json").read_bytes()).shapes()
        mask = decode_supports((folder / "supports").read_bytes(), shapes)["fc3.weight"].dense_mask()
        assert not mask.all()
        assert not own["fc3.weight"][~mask].any(), "the layer is as sparse as the run"
        assert np.mean(own["fc3.weight"][mask] != 0) > 0.9


# --- what can go wrong --------------------------------------------------------------------------------------------


def test_when_nobody_uploads_a_layer_the_aggregator_says_so_once(tmp_path: Path, mosquitto: Broker) -> None:
    tables = {**OPTIONS.tables, "training": {"local_epochs": 1}}
    options = msgspec.structs.replace(OPTIONS, rounds=2, tables=tables)
    every: dict[str, Choice] = dict.fromkeys(("device-01", "device-02", "device-03"), LAST)
    with personal_fleet(options, tmp_path / "run", mosquitto.port, every) as run:
        run.start_all()
        run.finish()
        notes = [e["text"] for e in run.events("note") if "uploads" in e["text"]]
        assert len(notes) == 1
        assert notes[0].startswith("no device uploads fc3.bias, fc3.weight: every device keeps that for itself")
        result = json.loads((run.folder / "result.json").read_text())
        assert result["final"]["uploaded_by_nobody"] == list(HEAD)


def test_a_name_that_the_model_does_not_have_is_told_on_both_ends(tmp_path: Path, mosquitto: Broker) -> None:
    options = msgspec.structs.replace(OPTIONS, rounds=1, devices=1)
    with personal_fleet(options, tmp_path / "run", mosquitto.port, {"device-01": ("fc4.weight",)}) as run:
        run.start_all()
        reason = run.wait_for("refused")["reason"]
        assert "no parameter 'fc4.weight'; the nearest are: fc3.weight" in reason
        assert "fc4.weight" in run.log("device-01")
        assert "Traceback" not in run.log("device-01")


def test_a_damaged_layer_ends_the_device_before_it_joins(tmp_path: Path, mosquitto: Broker) -> None:
    options = msgspec.structs.replace(OPTIONS, devices=1)
    with personal_fleet(options, tmp_path / "run", mosquitto.port) as run:
        personal_file(run, "device-01").write_bytes(os.urandom(100))
        ended = espalier("device", "run", "--config", run.folder / "devices" / "device-01" / "device.toml")
        assert ended.returncode == 2
        (line,) = ended.stderr.strip().splitlines()
        assert line.startswith("espalier: ")
        assert "personal.safetensors is damaged" in line
        assert "move it away" in line


@pytest.mark.parametrize("before", [(), ("fc1.weight",)], ids=["nothing before", "another before"])
def test_an_update_from_before_a_layer_became_personal_is_trained_anew(
    before: Choice, tmp_path: Path, mosquitto: Broker
) -> None:
    options = msgspec.structs.replace(
        OPTIONS, rounds=1, devices=1, tables={**OPTIONS.tables, "training": {"local_epochs": 120}}
    )
    recorder = Recorder(mosquitto.port)
    with personal_fleet(options, tmp_path / "run", mosquitto.port, {"device-01": before}) as run:
        run.start_all()
        wait_until(lambda: "fetching -> training" in run.log("device-01"), 20, "training")
        run.signal("aggregator", signal.SIGSTOP)
        folder = run.folder / "devices" / "device-01"
        wait_until((folder / "spool.json").exists, 20, "an offer in the spool")
        run.end("device-01", signal.SIGKILL)
        run.end("aggregator", signal.SIGKILL)
        config = folder / "device.toml"
        config.write_text(re.sub(r"(?s)personal = \[.*?\]", 'personal = "last"', config.read_text()))
        with recorder.listening():
            run.start("aggregator", "device-01")
            run.finish()
        assert run.log("device-01").count("round 1 trained") == 2
        (update,) = recorder.updates().values()
        assert update.keys().isdisjoint(HEAD)
