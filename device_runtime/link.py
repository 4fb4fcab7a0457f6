"""The MQTT link: the only file that imports the MQTT library. Its callbacks only enqueue.

Clean sessions: the broker keeps nothing that device or aggregator could not tell again. QoS 1 for everything,
TCP_NODELAY (Nagle's algorithm and delayed acknowledgement together cost 40 ms a message), reconnection with jitter,
presence by last will. MQTT 3.1.1, because every broker speaks it and all meaning is in the payload.
"""

import contextlib
import random
import socket
import ssl
import threading
import time
from functools import partial
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from device_runtime.surroundings import (
    Arrived,
    LinkDown,
    LinkUp,
    MachineClock,
    Post,
    Station,
    Surroundings,
    ThreadWorker,
)
from device_runtime.wire.errors import LinkError, UsageError
from device_runtime.wire.limits import ENVELOPE_BYTES_MAX
from device_runtime.wire.settings import LinkSettings

QOS = 1
RECONNECT_S_MIN = 0.5
RECONNECT_S_MAX = 30.0


class MqttLink:
    """One client of the broker. What happens is posted, for one loop to take."""

    def __init__(self, settings: LinkSettings, station: Station, post: Post) -> None:
        self.bytes_published = 0
        self.bytes_received = 0
        self._settings = settings
        self._subscriptions = station.subscriptions
        self._post = post
        self._first_connect = threading.Event()
        self._refusal: str | None = None
        self._closed_early = False
        self._closing = False
        self._last_published: mqtt.MQTTMessageInfo | None = None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=station.client_id, clean_session=True, protocol=mqtt.MQTTv311
        )
        self._client.max_inflight_messages_set(64)
        self._client.reconnect_delay_set(1, int(RECONNECT_S_MAX))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_socket_open = _no_delay
        if station.will is not None:
            self._client.will_set(*station.will, qos=QOS, retain=False)
        configure_security(self._client, settings)

    def connect(self) -> None:
        """Connect and start the network thread; returns when the broker accepted and subscribed us.

        Raises LinkError after `connect_timeout_s`, naming host and port and what stood in the way.
        """
        place = f"{self._settings.host}:{self._settings.port}"
        deadline = time.monotonic() + self._settings.connect_timeout_s
        while True:
            try:
                self._client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
                break
            except ssl.SSLError as error:
                raise LinkError(f"TLS with the broker at {place} fails: {error}. Check ca and certificate.") from error
            except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
                if time.monotonic() >= deadline:
                    raise LinkError(
                        f"no broker answers at {place} ({error}); start one, or set host and port in [link]."
                    ) from error
                time.sleep(min(0.2, RECONNECT_S_MIN) + random.random() * 0.1)
        self._client.loop_start()
        if not self._first_connect.wait(max(deadline - time.monotonic(), 1.0)):
            self.close()
            raise LinkError(f"the broker at {place} {self._silence()}")
        if self._refusal:
            self.close()
            raise LinkError(f"the broker at {place} refuses this client: {self._refusal}.")

    def _silence(self) -> str:
        """Why there was no answer to our greeting, as far as one can tell."""
        if not self._closed_early:
            return "accepts the connection but does not answer; is it an MQTT broker?"
        if self._settings.ca:
            return "closes the connection; does it accept the certificate and key in [link]?"
        return "closes the connection; does it want TLS (ca in [link])?"

    def publish(self, topic: str, payload: bytes) -> None:
        """Hand one payload to the network thread. Never blocks; what a broken link loses is asked for again."""
        assert len(payload) <= ENVELOPE_BYTES_MAX, "an envelope is built within its limit"
        self.bytes_published += len(payload)
        self._last_published = self._client.publish(topic, payload, qos=QOS, retain=False)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until the broker has acknowledged the last payload published, up to a limit."""
        if self._last_published is not None:
            with contextlib.suppress(RuntimeError):  # published while the link was down: nothing to wait for
                self._last_published.wait_for_publish(timeout_s)

    def close(self) -> None:
        """Disconnect in good order (no last will) and stop the network thread."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    # --- callbacks, on the network thread ---------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            self._first_connect.set()
            return
        client.subscribe([(topic, QOS) for topic in self._subscriptions])

    def _on_subscribe(self, _c: mqtt.Client, _d: object, _mid: int, codes: list[ReasonCode], _p: object) -> None:
        failed = [str(code) for code in codes if code.is_failure]
        if failed:
            self._refusal = f"it may not subscribe ({failed[0]})"
        self._first_connect.set()
        if not failed:
            self._post(LinkUp())

    def _on_disconnect(self, _c: mqtt.Client, _d: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if self._closing:
            return
        if not self._first_connect.is_set():
            self._closed_early = True
            return
        self._post(LinkDown(str(reason)))
        # paho's own delay doubles without jitter; a fleet must not come back in step.
        time.sleep(random.random() * RECONNECT_S_MIN)

    def _on_message(self, _c: mqtt.Client, _d: object, message: mqtt.MQTTMessage) -> None:
        self.bytes_received += len(message.payload)
        if not message.retain:  # nothing of ours is retained; a retained message is somebody's mistake or attack
            self._post(Arrived(message.topic, bytes(message.payload)))


def over_mqtt(settings: LinkSettings) -> Surroundings:
    """The surroundings of a process of its own: a broker, this machine's clock, threads.

    Opening the link raises UsageError for security settings that cannot work.
    """
    return Surroundings(partial(MqttLink, settings), MachineClock(), ThreadWorker())


def configure_security(client: mqtt.Client, settings: LinkSettings) -> None:
    """User, password and TLS as the settings say. Raises UsageError naming a file that is missing or wrong."""
    if settings.username:
        client.username_pw_set(settings.username, _password(settings.password_file))
    if not settings.ca:
        if settings.certificate or settings.key:
            raise UsageError(
                "[link] certificate and key need ca too: the file of the authority that signed the broker's."
            )
        return
    for name in ("ca", "certificate", "key"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise UsageError(f"[link] {name}: the file {path!r} does not exist.")
    if bool(settings.certificate) != bool(settings.key):
        raise UsageError("[link] certificate and key go together: set both or neither.")
    try:
        client.tls_set(ca_certs=settings.ca, certfile=settings.certificate or None, keyfile=settings.key or None)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"[link] ca, certificate or key cannot be used: {error}.") from error


def _password(path: str) -> str | None:
    if not path:
        return None
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"[link] password_file {path!r} cannot be read: {error.strerror}.") from error
    return lines[0] if lines else ""


def _no_delay(_client: mqtt.Client, _data: object, sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
