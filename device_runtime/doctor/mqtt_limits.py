"""Asks a broker for its limits with one login of MQTT 5, in whose answer it tells them.

The device itself speaks MQTT 3.1.1, in which a broker cannot. Beside the link this is the only file that imports the
MQTT library, for a client that says hello once and posts nothing.
"""

import struct
import time
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_runtime.link import configure_security
from device_runtime.wire.settings import LinkSettings

# The words of MQTT 5.0, section 3.2.2.3, and ours.
_NAMES = {
    "ServerKeepAlive": "keepalive_s",
    "ReceiveMaximum": "receive_max",
    "MaximumQoS": "qos_max",
    "MaximumPacketSize": "packet_bytes_max",
}
# What the library raises for bytes that are no answer of MQTT 5.
_MISREAD = (MQTTException, IndexError, KeyError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """The answer to a login: its reason code (0 is accepted), and the limits told. An absent limit is none set."""

    reason: int
    limits: dict[str, int]


def ask_limits(settings: LinkSettings, client_id: str, timeout_s: float) -> BrokerAnswer:
    """Log in, read the answer, leave.

    Raises UsageError for security settings that cannot work, OSError (ssl.SSLError among them) when there is no
    connection, ValueError when there is no answer of MQTT 5.
    """
    answers: list[BrokerAnswer] = []

    def on_connect(_c: mqtt.Client, _d: object, _flags: object, reason: ReasonCode, told: Properties | None) -> None:
        answers.append(BrokerAnswer(int(reason.value), _limits(told)))

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    client.on_connect = on_connect
    configure_security(client, settings)
    client.connect_timeout = timeout_s
    client.connect(settings.host, settings.port, settings.keepalive_s)
    deadline = time.monotonic() + timeout_s
    try:
        while not answers and time.monotonic() < deadline and client.loop(0.1) == mqtt.MQTT_ERR_SUCCESS:
            pass
    except _MISREAD as error:
        raise ValueError("the answer is not one of MQTT 5") from error
    finally:
        client.disconnect()
    if not answers:
        raise ValueError("the answer is not one of MQTT 5")
    return answers[0]


def _limits(told: Properties | None) -> dict[str, int]:
    """The limits among the properties of an answer, by our names."""
    return {ours: int(getattr(told, name)) for name, ours in _NAMES.items() if hasattr(told, name)}
