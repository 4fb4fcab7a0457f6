"""Rates by capability with real processes: a slow device trains a sparser submodel, also across a restart."""

import json
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import msgspec
import numpy as np
import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options
from aggregator.ledger import Ledger
from device_runtime.profile.record import Profile, encode_profile
from device_runtime.store import BlobStore
from device_runtime.wire.messages import Assignment
from device_runtime.wire.tensors import decode_tensors
from tests.e2e.harness import Fleet, espalier, fleet, params_bytes, undisturbed_bytes, wait_until
from tests.profiles import make_case, make_profile

pytestmark = pytest.mark.e2e

RUN_SPARSITY = 0.8
OPTIONS = Options(
    rounds=4, devices=2, seed=7, noise="none", engine="portable", tables={"training": {"local_epochs": 30}}
)
CAPABILITY: dict[str, object] = {"kind": "capability", "sparsity_max": 0.95}


def slow_profile(model: str = "mlp") -> Profile:
    """A board on which a step takes 0.5 ms more when nothing is pruned than when everything is."""
    cases = [make_case(sparsity=a, ms=0.1 + 0.5 * (1 - a)) for a in (0.0, 0.5, 0.9)]
    return make_profile(*cases, network=model, input_shape=(1, 8, 8))


def make_slow(run: Fleet, name: str, profile: Profile) -> None:
    """Give the device all of its data four times, so that it is the slow one indeed, and the profile."""
    folder = run.folder / "devices" / name
    with np.load(folder / "data.npz") as data:
        np.savez(folder / "data.npz", x=np.tile(data["x"], (4, 1, 1)), y=np.tile(data["y"], 4))
    (folder / "profile.json").write_bytes(encode_profile(profile))


def assignments(run: Fleet, round_index: int) -> dict[str, Assignment]:
    """The open or closed round's assignments, by device, as the ledger has them."""
    ledger = Ledger(run.folder / "ledger.sqlite", read_only=True)
    try:
        opened = ledger.opened_round(round_index)
        return {} if opened is None else {a.device: a for a in opened.assignments}
    finally:
        ledger.close()


def kept_count(run: Fleet, assignment: Assignment) -> int:
    """How many weights the masks of an assignment keep, from the blob that travels."""
    data = BlobStore(run.folder / "blobs").get(assignment.support_shas[0])
    assert data is not None, "the masks of the open round are in the run folder"
    return sum(int(np.unpackbits(t).sum()) for t in decode_tensors(data).values())


def test_the_slow_device_trains_a_sparser_submodel(tmp_path: Path, mosquitto: Broker) -> None:
    with fleet(OPTIONS, tmp_path / "run", mosquitto.port, rates=CAPABILITY) as run:
        make_slow(run, "device-02", slow_profile())
        run.start_all()
        run.wait_for("profile", device="device-02")
        run.finish()
        assert [d for _, d in run.accepted()] == run.names * OPTIONS.rounds
    rounds = json.loads((run.folder / "result.json").read_text())["rounds"]
    sparsities = [{d["name"]: d["sparsity"] for d in r["devices"]} for r in rounds]
    assert all(s["device-01"] == pytest.approx(RUN_SPARSITY, abs=1e-3) for s in sparsities)
    # Round 1 opens before anything was measured. In the others the slow device's rounds took several times as long.
    assert sparsities[0]["device-02"] == pytest.approx(RUN_SPARSITY, abs=1e-3)
    assert all(RUN_SPARSITY + 0.005 < s["device-02"] <= 0.951 for s in sparsities[2:])
    ideal = {d["name"]: d["flops_ideal"] / d["flops_dense"] for d in rounds[-1]["devices"]}
    assert ideal["device-02"] < ideal["device-01"]
    assert (run.folder / "profiles" / "device-02.json").read_bytes() == encode_profile(slow_profile())
    rows = {r["device"]: r for r in json.loads(espalier("aggregator", "devices", run.folder, "--json").stdout)}
    assert rows["device-02"]["sparsity"] == sparsities[-1]["device-02"]
    (last,) = json.loads(espalier("aggregator", "rounds", run.folder, "--json").stdout)[-1:]
    assert (last["sparsity_lowest"], last["sparsity_highest"]) == tuple(sorted(sparsities[-1].values()))


def test_a_profile_of_another_model_is_kept_not_used_and_told_of(tmp_path: Path, mosquitto: Broker) -> None:
    with fleet(OPTIONS, tmp_path / "run", mosquitto.port, rates=CAPABILITY) as run:
        make_slow(run, "device-02", slow_profile("lenet5"))
        run.start_all()
        run.finish()
        told = [e["text"] for e in run.events("note") if "not used for its rate" in str(e["text"])]
        assert len(told) == 1
        assert told[0].startswith("the profile of device-02 is kept and not used for its rate: it is of model 'lenet5'")
        assert (run.folder / "profiles" / "device-02.json").is_file()


def test_an_open_round_with_masks_of_its_own_survives_kills(tmp_path: Path, mosquitto: Broker) -> None:
    long = msgspec.structs.replace(OPTIONS, tables={"training": {"local_epochs": 120}})
    with fleet(long, tmp_path / "run", mosquitto.port, rates=CAPABILITY) as run:
        make_slow(run, "device-02", slow_profile())
        run.start_all()
        opened = wait_until(
            lambda: [e for e in run.events("round_opened") if e["sparsities"][1] > e["sparsities"][0]], 40, "rates"
        )[0]
        index = int(opened["round_index"])
        run.signal("device-02", SIGSTOP)
        run.end("aggregator", SIGKILL)
        before = assignments(run, index)
        assert before["device-01"].support_shas != before["device-02"].support_shas
        assert kept_count(run, before["device-02"]) < kept_count(run, before["device-01"])
        run.start("aggregator")
        wait_until(lambda: (index, "device-01") in run.accepted(), 40, "the other device's update")
        run.end("aggregator", SIGKILL)  # once more, with one update accepted
        run.start("aggregator")
        run.end("device-02", SIGKILL)
        run.start("device-02")
        run.finish()
        assert assignments(run, index) == before
        assert [d for _, d in run.accepted()] == run.names * OPTIONS.rounds
    rounds = json.loads((run.folder / "result.json").read_text())["rounds"]
    assert [d["sparsity"] for d in rounds[index - 1]["devices"]] == opened["sparsities"]


def test_fixed_rates_are_the_default_and_ignore_a_profile(tmp_path: Path, mosquitto: Broker) -> None:
    short = msgspec.structs.replace(OPTIONS, rounds=2)
    with fleet(short, tmp_path / "run", mosquitto.port) as run:
        make_slow(run, "device-02", slow_profile())
        run.start_all()
        run.finish()
        assert len({s for e in run.events("round_opened") for s in e["sparsities"]}) == 1


def test_rates_by_contribution_end_with_the_same_bits_as_without_a_broker(tmp_path: Path, mosquitto: Broker) -> None:
    """Weights rest on no clock, so neither do the sparsities: submodels of several sparsities keep the promise."""
    options = msgspec.structs.replace(OPTIONS, devices=3, noise="pair:0.8@2", engine="auto")
    rates: dict[str, object] = {"kind": "contribution", "kappa": 0.15}
    with fleet(options, tmp_path / "run", mosquitto.port, rates=rates) as run:
        expected = undisturbed_bytes(options, run.plan, tmp_path / "in-process")
        run.start_all()
        run.wait_for("round", round_index=2)
        run.kill_and_restart("aggregator")
        run.kill_and_restart("device-03")
        run.finish()
        assert params_bytes(run.folder) == expected
        opened = {int(e["round_index"]): e["sparsities"] for e in run.events("round_opened")}
    assert len(set(opened[1])) == 1, "nobody has contributed yet"
    assert len(set(opened[options.rounds])) > 1
