"""Asks a broker for its limits with one MQTT 5 CONNECT, read from the properties of its answer.

The device itself speaks MQTT 3.1.1, in which a broker cannot tell them. Section numbers are those of the OASIS
standard MQTT 5.0.
"""

import socket
import ssl
import struct
from dataclasses import dataclass

ANSWER_BYTES_MAX = 4096
_WIDTHS = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}  # section 3.2.2.3
_NAMES = {0x13: "keepalive_s", 0x21: "receive_max", 0x24: "qos_max", 0x27: "packet_bytes_max"}


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """The answer to a CONNECT: its reason code (0 is accepted), and the limits told. An absent limit is none set."""

    reason: int
    limits: dict[str, int]


def connect_packet(client_id: str, username: str, password: str) -> bytes:
    """A CONNECT with a clean start and no will (section 3.1)."""
    flags = 0x02 | (0x80 if username else 0) | (0x40 if username and password else 0)
    body = _text("MQTT") + bytes([5, flags]) + struct.pack(">H", 30) + b"\x00" + _text(client_id)
    if username:
        body += _text(username) + (_text(password) if password else b"")
    return b"\x10" + _length(len(body)) + body


def parse_answer(data: bytes) -> BrokerAnswer:
    """A CONNACK (section 3.2). Raises ValueError when it is none, or of another version of the protocol."""
    if len(data) < 2 or data[0] != 0x20:
        raise ValueError("the answer is not a CONNACK")
    size, at = _read_length(data, 1)
    end = at + size
    if len(data) < end or size < 3:
        raise ValueError("the answer is not one of MQTT 5")
    reason, (room, at) = data[at + 1], _read_length(data, at + 2)
    limits: dict[str, int] = {}
    if at + room != end:
        raise ValueError("the answer's properties do not fill the answer")
    while at < end:
        key, at = data[at], at + 1
        width = _WIDTHS.get(key)
        if width is None:
            at += _skip(data, key, at)
            continue
        if key in _NAMES:
            limits[_NAMES[key]] = int.from_bytes(data[at : at + width], "big")
        at += width
    return BrokerAnswer(reason, limits)


def ask_limits(host: str, port: int, tls: ssl.SSLContext | None, packet: bytes, timeout_s: float) -> BrokerAnswer:
    """Send `packet` and read the answer.

    Raises OSError (ssl.SSLError among them) when there is no connection, ValueError when the answer is not MQTT 5.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as plain:
        stream = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        with stream:
            stream.sendall(packet)
            data = b""
            while len(data) < ANSWER_BYTES_MAX and not _whole(data):
                part = stream.recv(ANSWER_BYTES_MAX - len(data))
                if not part:
                    break
                data += part
            if _whole(data):
                stream.sendall(b"\xe0\x00")  # DISCONNECT
    return parse_answer(data)


def _whole(data: bytes) -> bool:
    try:
        size, at = _read_length(data, 1)
    except ValueError:
        return False
    return len(data) >= at + size


def _skip(data: bytes, key: int, at: int) -> int:
    """The bytes of a property that is text, or a pair of texts (user property, 0x26)."""
    first = 2 + int.from_bytes(data[at : at + 2], "big")
    if key != 0x26:
        return first
    return first + 2 + int.from_bytes(data[at + first : at + first + 2], "big")


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def _length(value: int) -> bytes:
    """A variable byte integer (section 1.5.5)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 28, 7):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if not byte & 0x80:
            return value, at
    raise ValueError("the answer ends in a length")
