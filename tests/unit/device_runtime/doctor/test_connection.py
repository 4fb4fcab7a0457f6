"""The doctor at the broker: certificates, login, limits; answers of a real broker, or bytes of the standard."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.doctor.connection import (
    PACKET_BYTES_MIN,
    check_broker,
    check_broker_limits,
    check_tls_files,
    judge_dates,
    judge_limits,
)
from device_runtime.doctor.finding import Patient
from device_runtime.doctor.mqtt_limits import BrokerAnswer, ask_limits
from device_runtime.wire.settings import LinkSettings
from firmware_profiles.detect import detect_board

DAY = 86400.0
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def patient(link: LinkSettings) -> Patient:
    settings = DeviceSettings(name="bench", folder="bench", data=DataSettings(source="x.npz"), link=link)
    return Patient(detect_board(), settings=settings)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates that sign themselves, with their keys."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("bench", "other"):
        make_certificate(folder, name, [])
    return folder


def link(keys: Path, **changes: str) -> LinkSettings:
    given = {"ca": "bench.crt", "certificate": "bench.crt", "key": "bench.key", **changes}
    return LinkSettings(host="gateway.example", **{k: str(keys / v) for k, v in given.items()})  # type: ignore[arg-type]


@needs_openssl
def test_a_key_and_its_certificate_are_well(keys: Path) -> None:
    assert [f.status for f in check_tls_files(patient(link(keys)))] == ["ok"]


@needs_openssl
def test_a_key_of_another_certificate_fails(keys: Path) -> None:
    (finding,) = check_tls_files(patient(link(keys, key="other.key")))
    assert finding.status == "failed"
    assert "is not the key of" in finding.found


@needs_openssl
def test_files_that_are_not_there_are_named(keys: Path) -> None:
    (finding,) = check_tls_files(patient(link(keys, ca="gone.crt", key="gone.key")))
    assert finding.status == "failed"
    assert "ca = " in finding.found
    assert "key = " in finding.found


@needs_openssl
def test_a_key_that_others_may_read_is_a_warning(keys: Path, tmp_path: Path) -> None:
    open_key = tmp_path / "bench.key"
    shutil.copy(keys / "bench.key", open_key)
    open_key.chmod(0o644)
    (finding,) = check_tls_files(patient(link(keys, key=str(open_key))))
    assert (finding.status, finding.remedy) == ("warning", f"chmod 600 {open_key}")


@needs_openssl
def test_without_openssl_the_dates_are_not_checked(keys: Path) -> None:
    given = patient(link(keys))
    blind = Patient(given.detection, settings=given.settings, run=lambda _: None)
    assert {f.status for f in check_tls_files(blind)} == {"not checked"}


@pytest.mark.parametrize(
    ("now", "status"), [(50 * DAY, "ok"), (80 * DAY, "warning"), (101 * DAY, "failed"), (9 * DAY, "failed")]
)
def test_dates_are_judged(now: float, status: str) -> None:
    findings = judge_dates("bench.crt", 10 * DAY, 100 * DAY, now)
    assert [f.status for f in findings] == ([] if status == "ok" else [status])


def test_no_tls_is_a_warning_only_beyond_this_machine() -> None:
    assert check_tls_files(patient(LinkSettings(host="127.0.0.1")))[0].status == "ok"
    assert check_tls_files(patient(LinkSettings(host="gateway.example")))[0].status == "warning"


def test_a_broker_that_is_not_there_fails_and_its_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runtime.doctor.connection.CONNECT_TIMEOUT_S", 0.2)
    port = free_port()
    (finding,) = check_broker(patient(LinkSettings(port=port)))
    assert finding.status == "failed"
    assert f"127.0.0.1:{port}" in finding.found
    assert check_broker_limits(patient(LinkSettings(port=port)))[0].status == "not checked"


@needs_mosquitto
def test_a_broker_that_accepts_us_is_well_and_tells_its_limits(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 200000\n") as port:
        assert check_broker(patient(LinkSettings(port=port)))[0].status == "ok"
        (finding,) = check_broker_limits(patient(LinkSettings(port=port)))
    assert finding.status == "ok"
    assert "packet_bytes_max 200000" in finding.found


@needs_mosquitto
def test_a_broker_whose_packets_are_too_small_fails(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 65536\n") as port:
        (finding,) = check_broker_limits(patient(LinkSettings(port=port)))
    assert finding.status == "failed"
    assert "max_packet_size" in finding.remedy


@needs_mosquitto
def test_a_login_that_is_refused_fails(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous false\n") as port:
        (finding,) = check_broker(patient(LinkSettings(port=port)))
        (limits,) = check_broker_limits(patient(LinkSettings(port=port)))
    assert finding.status == "failed"
    assert "refuses this client" in finding.found
    assert limits.status == "not checked"


@needs_openssl
@needs_mosquitto
def test_over_tls_with_a_client_certificate_login_and_limits_are_checked_as_well(tmp_path: Path) -> None:
    for name, extra in (("ca", []), ("broker", ["-addext", "subjectAltName=IP:127.0.0.1"]), ("bench", [])):
        signed = [] if name == "ca" else ["-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key")]
        make_certificate(tmp_path, name, [*extra, *signed])
    settings = "".join(f"{key} {tmp_path / file}\n" for key, file in TLS_FILES.items())
    tls = {key: str(tmp_path / file) for key, file in CLIENT_FILES.items()}
    with mosquitto(tmp_path, f"user root\n{settings}require_certificate true\nuse_identity_as_username true\n") as port:
        well = patient(LinkSettings(port=port, **tls))  # type: ignore[arg-type]
        assert [f.status for f in check_tls_files(well)] == ["ok"]
        assert check_broker(well)[0].status == "ok"
        assert check_broker_limits(well)[0].status == "ok"
        without = patient(LinkSettings(port=port, ca=tls["ca"]))
        assert check_broker(without)[0].status == "failed"
        wrong = patient(
            LinkSettings(port=port, ca=tls["ca"], certificate=tls["certificate"], key=str(tmp_path / "ca.key"))
        )
        assert check_tls_files(wrong)[0].status == "failed"
        assert check_broker(wrong)[0].status == "not checked", "mend the files first"


TLS_FILES = {"cafile": "ca.crt", "certfile": "broker.crt", "keyfile": "broker.key"}
CLIENT_FILES = {"ca": "ca.crt", "certificate": "bench.crt", "key": "bench.key"}


def make_certificate(folder: Path, name: str, more: list[str]) -> None:
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN={name}"
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    subprocess.run([*command.split(), *files, *more], check=True, capture_output=True, timeout=30)
    (folder / f"{name}.key").chmod(0o600)


def test_limits_are_judged() -> None:
    assert judge_limits({})[0].status == "ok"
    assert judge_limits({"packet_bytes_max": PACKET_BYTES_MIN})[0].status == "ok"
    assert judge_limits({"packet_bytes_max": PACKET_BYTES_MIN - 1})[0].status == "failed"
    assert judge_limits({"qos_max": 0})[0].status == "failed"


def test_an_answer_of_mqtt_5_is_read_with_every_kind_of_property() -> None:
    properties = (
        b"\x21\x00\x14" b"\x24\x01" b"\x27\x00\x03\x0d\x40"  # receive maximum 20, QoS 1, packets of 200000
        b"\x1f\x00\x02hi" b"\x26\x00\x01a\x00\x01b" b"\x12\x00\x03abc" b"\x13\x00\x3c"
    )  # fmt: skip
    body = b"\x00\x00" + bytes([len(properties)]) + properties
    with answering(b"\x20" + bytes([len(body)]) + body) as port:
        answer = ask_limits(LinkSettings(port=port), "ab", 2.0)
    assert answer.reason == 0
    assert answer.limits == {"receive_max": 20, "qos_max": 1, "packet_bytes_max": 200_000, "keepalive_s": 60}


def test_a_refusal_is_told_with_its_reason() -> None:
    with answering(b"\x20\x03\x00\x86\x00") as port:  # bad user name or password
        assert ask_limits(LinkSettings(port=port), "ab", 2.0) == BrokerAnswer(0x86, {})
    with answering(b"\x20\x02\x00\x01") as port:  # of MQTT 3.1.1: another version, please
        assert ask_limits(LinkSettings(port=port), "ab", 2.0) == BrokerAnswer(0x84, {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x20",
        b"\x20\x00",
        b"\x20\x02\x00\x00",  # accepted, in MQTT 3.1.1
        b"\x20\x03\x00\x00\x05",
        b"\x20\x05\x00\x00\x02\x21\x00",
        b"\x20\x04\x00\x00\x01\xff",
        b"HTTP/1.1 400",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x90\x03\x00\x01\x00",
    ],
)
def test_an_answer_that_is_not_mqtt_5_is_refused(data: bytes) -> None:
    with answering(data) as port, pytest.raises(ValueError, match="the answer is not one of MQTT 5"):
        ask_limits(LinkSettings(port=port), "ab", 0.5)


@contextmanager
def answering(data: bytes) -> Iterator[int]:
    """A port where whatever is said is answered with these bytes, and then nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mosquitto(folder: Path, settings: str) -> Iterator[int]:
    port = free_port()
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\n{settings}")
    with subprocess.Popen([str(MOSQUITTO), "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
