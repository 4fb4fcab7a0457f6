"""Profiles from device to aggregator with real processes: kept once, told of, and never in the way of a round."""

import json
from pathlib import Path
from signal import SIGKILL

import msgspec
import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options
from device_runtime.link import MqttLink
from device_runtime.profile.record import encode_profile
from device_runtime.store import BlobStore
from device_runtime.surroundings import Arrived, Inbox, Station
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.messages import BlobRef, Get, Goodbye, Hello
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.topics import down_topic, up_topic
from tests.e2e.harness import Fleet, espalier, fleet, wait_until
from tests.fakes import cut_chunk
from tests.profiles import make_case, make_profile

pytestmark = pytest.mark.e2e

TWO = Options(rounds=3, devices=2, seed=4, noise="none", tables={"training": {"local_epochs": 60}})
# Raw samples enough for several chunks.
LONG_REPEAT = msgspec.structs.replace(make_case().repeats[0], step_ns=(10**7,) * 40_000)
LONG = msgspec.structs.replace(make_case(), repeats=(LONG_REPEAT,))
DATA = encode_profile(make_profile(LONG, make_case(sparsity=0.9, kind="noisy")))


def put_profile(run: Fleet, name: str, data: bytes) -> None:
    """Lay a file where a device looks for its profile."""
    (run.folder / "devices" / name / "profile.json").write_bytes(data)


def kept(run: Fleet, name: str) -> Path:
    """Where the run keeps a device's profile."""
    return run.folder / "profiles" / f"{name}.json"


def test_a_profile_is_kept_shown_and_reported_and_not_pulled_again_after_a_restart(
    tmp_path: Path, mosquitto: Broker
) -> None:
    with fleet(TWO, tmp_path / "run", mosquitto.port) as run:
        put_profile(run, "device-02", DATA)
        run.start_all()
        event = run.wait_for("profile", device="device-02")
        assert (event["verdict"], event["bytes"]) == ("1 of 2 cases valid", len(DATA))
        assert kept(run, "device-02").read_bytes() == DATA
        before = kept(run, "device-02").stat()
        run.kill_and_restart("aggregator")
        run.wait_for("round", round_index=2)
        run.kill_and_restart("device-02")
        run.finish()
        assert len(run.events("profile")) == 1
        assert kept(run, "device-02").stat().st_ino == before.st_ino
        assert not kept(run, "device-01").exists()
        blobs = BlobStore(run.folder / "devices" / "device-02" / "blobs")
        assert blobs.get(sha256_hex(DATA)) == DATA, "it cleans its blobs after every receipt and keeps the profile"
        assert [d for _, d in run.accepted()] == run.names * TWO.rounds
    rows = {r["device"]: r for r in json.loads(espalier("aggregator", "devices", run.folder, "--json").stdout)}
    assert (rows["device-01"]["profile"], rows["device-02"]["profile"]) == (None, "1 of 2 cases valid")
    shown = espalier("report", "profiles", kept(run, "device-02"), "--json")
    assert shown.returncode == 0, shown.stderr
    assert [row["verdict"] for row in json.loads(shown.stdout)["cases"]] == ["valid", "noisy"]


def test_a_device_with_a_bad_profile_in_its_folder_warns_and_trains_and_a_named_one_stops_it(
    tmp_path: Path, mosquitto: Broker
) -> None:
    with fleet(TWO, tmp_path / "run", mosquitto.port) as run:
        put_profile(run, "device-02", b"half a profi")
        run.start_all()
        run.finish()
        assert "no profile is offered" in run.log("device-02")
        assert not run.events("profile")
        settings = run.folder / "devices" / "device-02" / "device.toml"
        bad = run.folder / "devices" / "device-02" / "profile.json"
        settings.write_text(f'profile = "{bad}"\n' + settings.read_text().replace('profile = ""\n', ""))
        ended = espalier("device", "run", "--config", settings)
        assert ended.returncode == 2
        assert ended.stderr.strip().splitlines()[-1].startswith(f"espalier: '{bad}' is no profile of version 1")


HOSTILE = {
    "not JSON": (b"no json at all", {}, "it is no profile of version 1"),
    "another schema": (b'{"format":"espalier-profile","version":2}', {}, "it is no profile of version 1"),
    "another sha": (DATA, {"sha": sha256_hex(b"other")}, "does not match its SHA-256"),
    "another size": (DATA, {"size_bytes": len(DATA) - 1}, "changed its size"),
    "oversized": (b"", {"size_bytes": 2**28}, "more than 16777216"),
}


def test_broken_profiles_are_ignored_with_a_word_and_cost_no_round(tmp_path: Path, mosquitto: Broker) -> None:
    """A peer of its own joins, offers one bad profile after the other, and leaves."""
    with fleet(TWO, tmp_path / "run", mosquitto.port) as run:
        run.start("aggregator")
        run.wait_for("started")
        inbox = Inbox()
        link = msgspec.structs.replace(run.plan.settings.link, port=mosquitto.port)
        site = link.site
        peer = MqttLink(link, Station("hostile", (down_topic(site, "hostile"),)), inbox.put)
        peer.connect()
        try:
            for data, changed, words in HOSTILE.values():
                ref = BlobRef(**({"sha": sha256_hex(data), "size_bytes": len(data)} | changed))  # type: ignore[arg-type]
                hello = Hello(
                    device="hostile", session="s1", engines=("portable",), sample_count=1, version="0", profile=ref
                )
                peer.publish(up_topic(site, "hostile"), encode_message(hello))

                def told(words: str = words, data: bytes = data) -> bool:
                    _answer(peer, inbox, up_topic(site, "hostile"), data)
                    return any(words in str(e["text"]) and "hostile" in str(e["text"]) for e in run.events("note"))

                wait_until(told, 20, words)
            peer.publish(up_topic(site, "hostile"), encode_message(Goodbye(device="hostile", session="s1")))
            peer.flush()
            run.wait_for("device_left", device="hostile")
        finally:
            peer.close()
        assert not (run.folder / "profiles").exists()
        put_profile(run, "device-01", DATA)
        run.start(*run.names)
        run.finish()
        assert [d for _, d in run.accepted()] == run.names * TWO.rounds
        assert kept(run, "device-01").read_bytes() == DATA


def _answer(peer: MqttLink, inbox, topic: str, data: bytes) -> None:
    """Serve what was asked for, under whatever name it was asked for."""
    while (event := inbox.take()) is not None:
        message = decode_message(event.payload, allow_unsigned=True) if isinstance(event, Arrived) else None
        if isinstance(message, Get):
            for index in message.indices:
                chunk = cut_chunk(data, message.sha, index)
                if chunk is not None:
                    peer.publish(topic, encode_message(chunk))


def test_an_aggregator_killed_while_it_pulls_pulls_anew(tmp_path: Path, mosquitto: Broker) -> None:
    with fleet(TWO, tmp_path / "run", mosquitto.port, rounds={"devices_min": 2}) as run:
        put_profile(run, "device-01", DATA)
        run.start("aggregator", "device-01")
        run.wait_for("device_joined", device="device-01")
        run.end("aggregator", SIGKILL)
        run.start("aggregator", "device-02")
        run.finish()
        assert kept(run, "device-01").read_bytes() == DATA
