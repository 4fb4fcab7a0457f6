"""TLS with certificates on both sides, and passwords: they work, and what is wrong is told in one sentence."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.demo.broker import Broker, find_binary, start_broker
from aggregator.demo.plan import Options
from tests.e2e.certificates import make_certificates
from tests.e2e.harness import espalier, fleet

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_binary("mosquitto") is None, reason="mosquitto is not installed"),
]

SMALL = Options(rounds=1, devices=2, noise="none", seed=3)
PASSWORD = "correct horse"  # of a broker that lives for one test


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server and client (each .crt and .key), and a stranger's ca that signed none of them."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes the certificates, is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_broker(tmp_path: Path, certificates: Path) -> Iterator[Broker]:
    """Mosquitto that lets only holders of a certificate in."""
    extra = (
        f"cafile {certificates}/ca.crt\ncertfile {certificates}/server.crt\nkeyfile {certificates}/server.key\n"
        f"require_certificate true\nuser {os.environ.get('USER', 'root')}\n"
    )
    started = start_broker("mosquitto", tmp_path / "broker", extra=extra)
    yield started
    started.stop()


@pytest.fixture
def password_broker(tmp_path: Path) -> Iterator[Broker]:
    """Mosquitto that wants user `gateway` with the password."""
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("the command mosquitto_passwd, which makes the password file, is not installed")
    path = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", path, "gateway", PASSWORD], check=True, timeout=30)
    extra = f"allow_anonymous false\npassword_file {path}\nuser {os.environ.get('USER', 'root')}\n"
    started = start_broker("mosquitto", tmp_path / "broker", extra=extra)
    yield started
    started.stop()


def _with_certificates(folder: Path, ca: str = "ca", client: str = "client") -> dict[str, object]:
    link: dict[str, object] = {"ca": str(folder / f"{ca}.crt"), "connect_timeout_s": 2.0}
    if client:
        link |= {"certificate": str(folder / f"{client}.crt"), "key": str(folder / f"{client}.key")}
    return link


def _one_sentence(command: str, config: Path) -> str:
    ended = espalier(command, "run", "--config", config, timeout_s=30)
    assert ended.returncode == 2, ended.stderr
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("espalier: ")]
    assert len(sentences) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return sentences[0]


def test_run_finishes_over_tls_with_certificates_on_both_sides(
    tmp_path: Path, tls_broker: Broker, certificates: Path
) -> None:
    with fleet(SMALL, tmp_path / "run", tls_broker.port, link=_with_certificates(certificates)) as run:
        run.start_all()
        run.finish()
        assert len(run.accepted()) == 2


@pytest.mark.parametrize(
    ("ca", "client", "words"),
    [("stranger", "client", "certificate verify failed"), ("ca", "stranger", "certificate"), ("ca", "", "certificate")],
    ids=["wrong ca", "client certificate of a stranger", "no client certificate"],
)
def test_wrong_certificates_are_told_in_one_sentence(
    tmp_path: Path, tls_broker: Broker, certificates: Path, ca: str, client: str, words: str
) -> None:
    link = _with_certificates(certificates, ca, client)
    with fleet(SMALL, tmp_path / "run", tls_broker.port, link=link) as run:
        sentence = _one_sentence("device", run.folder / "devices" / "device-01" / "device.toml")
        assert f"127.0.0.1:{tls_broker.port}" in sentence
        assert words in sentence


def test_certificates_as_the_how_to_makes_them_please_strict_clients(tls_broker: Broker, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
    with (
        socket.create_connection(("127.0.0.1", tls_broker.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
    ):
        assert stream.version() in ("TLSv1.2", "TLSv1.3")


def test_run_finishes_with_a_password_from_a_file(tmp_path: Path, password_broker: Broker) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    link: dict[str, object] = {"username": "gateway", "password_file": str(tmp_path / "password")}
    with fleet(SMALL, tmp_path / "run", password_broker.port, link=link) as run:
        run.start_all()
        run.finish()
        assert len(run.accepted()) == 2


@pytest.mark.parametrize("command", ["device", "aggregator"])
def test_wrong_password_is_told_in_one_sentence(tmp_path: Path, password_broker: Broker, command: str) -> None:
    (tmp_path / "password").write_text("wrong")
    link: dict[str, object] = {"username": "gateway", "password_file": str(tmp_path / "password")}
    with fleet(SMALL, tmp_path / "run", password_broker.port, link=link) as run:
        files = {"device": run.folder / "devices" / "device-01" / "device.toml"}
        sentence = _one_sentence(command, files.get(command, run.folder / "aggregator.toml"))
        assert "refuses this client" in sentence
        assert PASSWORD not in sentence
        assert "wrong" not in sentence
