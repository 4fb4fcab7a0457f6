"""Can it reach its broker: certificates and key, connection, login, and the broker's limits."""

import ipaddress
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from device_runtime.doctor.finding import Finding, Patient, not_checked, without_settings
from device_runtime.doctor.mqtt_limits import ask_limits
from device_runtime.link import MqttLink
from device_runtime.surroundings import Inbox, Station
from device_runtime.wire.errors import LinkError, UsageError
from device_runtime.wire.limits import ENVELOPE_BYTES_MAX
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.topics import all_topic, down_topic

CONNECT_TIMEOUT_S = 5.0
EXPIRES_SOON_S = 30 * 86400
PACKET_BYTES_MIN = ENVELOPE_BYTES_MAX + 1024  # a payload with its topic and header
ENROL = "have the certificate signed again: docs/how-to/tls.md"


def check_tls_files(patient: Patient) -> list[Finding]:
    """CA, certificate and key are there, belong together, and are valid now."""
    if patient.settings is None:
        return without_settings("tls files")
    link = patient.settings.link
    if not link.ca:
        if _is_loopback(link.host):
            return [Finding("tls files", "ok", "no TLS, to a broker on this machine")]
        found = f"no TLS: anyone between here and {link.host} reads and changes what is sent"
        return [Finding("tls files", "warning", found, "set ca, certificate and key in [link]: docs/how-to/tls.md")]
    missing = [n for n in ("ca", "certificate", "key") if getattr(link, n) and not _readable(getattr(link, n))]
    if missing:
        words = ", ".join(f"{n} = {getattr(link, n)!r}" for n in missing)
        return [
            Finding(
                "tls files",
                "failed",
                f"cannot be read: {words}",
                "correct the paths in [link]; ls -l shows who may read",
            )
        ]
    return _pair(link) + _dates(patient, link) or [
        Finding("tls files", "ok", "certificate and key belong together and are valid")
    ]


def check_broker(patient: Patient) -> list[Finding]:
    """The broker answers, accepts the login and the device's subscriptions."""
    if patient.settings is None:
        return without_settings("broker")
    if not patient.live:
        return not_checked("broker", "this is a captured tree")
    settings = patient.settings
    if any(f.status == "failed" for f in check_tls_files(patient)):
        return not_checked("broker", "the tls files have to be mended first")
    link = msgspec.structs.replace(settings.link, connect_timeout_s=CONNECT_TIMEOUT_S)
    place = f"{link.host}:{link.port}"
    try:
        # A client id of its own: that of the device would throw a running device out.
        topics = (down_topic(link.site, settings.name), all_topic(link.site))
        client = MqttLink(link, Station(f"{link.site}-{settings.name}-doctor", topics), Inbox().put)
        client.connect()
    except (LinkError, UsageError) as error:
        return [
            Finding("broker", "failed", str(error), f"check [link] in the settings; nc -vz {link.host} {link.port}")
        ]
    client.close()
    return [Finding("broker", "ok", f"{place} accepts login and subscriptions")]


def check_broker_limits(patient: Patient) -> list[Finding]:
    """The broker takes payloads as large as ours, where it tells its limit."""
    if patient.settings is None:
        return without_settings("broker limits")
    if not patient.live:
        return not_checked("broker limits", "this is a captured tree")
    settings, link = patient.settings, patient.settings.link
    if any(f.status == "failed" for f in check_tls_files(patient)):
        return not_checked("broker limits", "the tls files have to be mended first")
    try:
        answer = ask_limits(link, f"{link.site}-{settings.name}-doctor5", CONNECT_TIMEOUT_S)
    except (UsageError, OSError, ValueError) as error:
        return not_checked("broker limits", f"the broker does not tell them by MQTT 5 ({error})")
    if answer.reason:
        return not_checked("broker limits", f"the broker refuses an MQTT 5 login with reason 0x{answer.reason:02x}")
    return judge_limits(answer.limits)


def judge_limits(limits: dict[str, int]) -> list[Finding]:
    """The judgement on the limits a broker tells."""
    words = ", ".join(f"{name} {value}" for name, value in sorted(limits.items())) or "none set"
    packet = limits.get("packet_bytes_max")
    if packet is not None and packet < PACKET_BYTES_MIN:
        found = f"packets may have {packet} bytes, ours have up to {PACKET_BYTES_MIN}"
        return [
            Finding("broker limits", "failed", found, f"set max_packet_size {2 * PACKET_BYTES_MIN} in mosquitto.conf")
        ]
    if limits.get("qos_max") == 0:
        return [Finding("broker limits", "failed", "only QoS 0 is allowed, ours is 1", "allow QoS 1 on the broker")]
    return [Finding("broker limits", "ok", words)]


def _pair(link: LinkSettings) -> list[Finding]:
    """The key is the certificate's, and the CA file holds certificates."""
    try:
        context = ssl.create_default_context(cafile=link.ca)
    except (ssl.SSLError, OSError) as error:
        return [
            Finding(
                "tls files",
                "failed",
                f"ca {link.ca!r} holds no certificate: {error}",
                "copy the authority's file again",
            )
        ]
    findings = []
    if link.certificate:
        try:
            context.load_cert_chain(link.certificate, link.key or None, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            found = f"{link.key!r} is not the key of {link.certificate!r}, or one of them is damaged ({reason})"
            findings.append(Finding("tls files", "failed", found, ENROL))
    if link.key and Path(link.key).stat().st_mode & 0o077:
        found = f"others than its owner may read the key {link.key!r}"
        findings.append(Finding("tls files", "warning", found, f"chmod 600 {link.key}"))
    return findings


def _dates(patient: Patient, link: LinkSettings) -> list[Finding]:
    """Validity now and in a month, by openssl."""
    findings: list[Finding] = []
    for key in ("ca", "certificate"):
        path = getattr(link, key)
        if not path:
            continue
        answer = patient.run(["openssl", "x509", "-in", path, "-noout", "-startdate", "-enddate"])
        dates = _parse_dates(answer.out) if answer and answer.status == 0 else None
        if dates is None:
            findings += not_checked(
                "tls files", f"the dates of {path!r} (openssl is absent)", "sudo apt install openssl"
            )
            continue
        findings += judge_dates(path, *dates, patient.now())
    return findings


def judge_dates(path: str, begin: float, end: float, now: float) -> list[Finding]:
    """The judgement on a certificate's validity, in seconds since 1970."""
    day = datetime.fromtimestamp(end, UTC).date()
    if now > end:
        return [Finding("tls files", "failed", f"{path!r} expired on {day}", ENROL)]
    if now < begin:
        start = datetime.fromtimestamp(begin, UTC).date()
        return [
            Finding("tls files", "failed", f"{path!r} is valid from {start} only; is the clock right?", "timedatectl")
        ]
    if end - now < EXPIRES_SOON_S:
        return [Finding("tls files", "warning", f"{path!r} expires on {day}", ENROL)]
    return []


def _parse_dates(text: str) -> tuple[float, float] | None:
    found = re.findall(r"^not(?:Before|After)=(.+)$", text, re.MULTILINE)
    return (
        (float(ssl.cert_time_to_seconds(found[0])), float(ssl.cert_time_to_seconds(found[1])))
        if len(found) == 2
        else None
    )


def _readable(path: str) -> bool:
    try:
        with Path(path).open("rb"):
            return True
    except OSError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
