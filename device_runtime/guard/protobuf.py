"""Messages in the wire format of Protocol Buffers, read strictly: only known fields, and no length is believed.

The format is described at https://protobuf.dev/programming-guides/encoding. Lenient readers skip what they do not know,
so two of them may see two different messages in the same bytes; this one refuses whatever another might read otherwise.
A message within a message comes as bytes, to be read by who knows it, so nothing here recurses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from device_runtime.wire.errors import RemoteWireError

_VARINT_BYTES_MAX = 10
_TAG_MAX = 2**32 - 1
_LAST_BYTE = 0x80  # a byte below it ends a varint


class Wire(IntEnum):
    """How a value lies in the bytes."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


@dataclass(frozen=True, slots=True)
class Field:
    """A field that a message may have; `repeated`: more than once, and numbers packed into bytes.

    refused: why no message that we take has it, as it follows "it".
    """

    name: str
    wire: Wire = Wire.BYTES
    repeated: bool = False
    refused: str = ""


Message = Mapping[int, Field]
Value = int | memoryview


class Reader:
    """Reads the messages of one file, which together have no more than `field_count_max` fields."""

    def __init__(self, field_count_max: int) -> None:
        self._left = field_count_max

    def fields(self, data: memoryview, message: Message) -> Iterator[tuple[str, Value]]:
        """The fields of a message by name, in the order they come: varints as numbers, all else as bytes.

        Raises RemoteWireError for bytes that are no such message, a field that is refused or unknown, and one that is
        said twice and may not be.
        """
        position, seen = 0, set()
        while position < len(data):
            self._left -= 1
            if self._left < 0:
                raise RemoteWireError("it has more parts than the limit")
            tag, position = _varint(data, position)
            field = _known(tag, message)
            if field.name in seen and not field.repeated:
                raise RemoteWireError(f"it says {field.name} twice")
            seen.add(field.name)
            value, position = _value(data, position, tag & 7)
            yield field.name, value


def _known(tag: int, message: Message) -> Field:
    number, wire = tag >> 3, tag & 7
    field = message.get(number)
    if field is None or tag > _TAG_MAX:
        raise RemoteWireError(f"it has a field {number} that is unknown here")
    if field.refused:
        raise RemoteWireError(f"it {field.refused}")
    if wire != field.wire and not (field.repeated and wire == Wire.BYTES):
        raise RemoteWireError(f"its field {field.name} is of another kind")
    return field


def _value(data: memoryview, position: int, wire: int) -> tuple[Value, int]:
    if wire == Wire.VARINT:
        return _varint(data, position)
    size = {Wire.FIXED64: 8, Wire.FIXED32: 4}.get(Wire(wire))
    if size is None:
        size, position = _varint(data, position)
    if size > len(data) - position:
        raise RemoteWireError("it ends in the middle")
    return data[position : position + size], position + size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, unsigned, and the position behind it."""
    number = 0
    for shift, byte in enumerate(data[position : position + _VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << (7 * shift)
        if byte < _LAST_BYTE:
            if number >= 2**64:
                break
            return number, position + shift + 1
    raise RemoteWireError("it has a number without an end")


def varints(value: Value, count_max: int) -> list[int]:
    """The unsigned numbers of one occurrence of a repeated field, packed or alone. Raises RemoteWireError."""
    if isinstance(value, int):
        return [value]
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
        if len(numbers) > count_max:
            raise RemoteWireError(f"it has more than {count_max} numbers where few are expected")
    return numbers


def count_numbers(value: Value, wire: Wire) -> int:
    """How many numbers one occurrence of a repeated field holds, packed or alone, without reading them.

    Raises RemoteWireError where the last one has no end.
    """
    if isinstance(value, int):
        return 1
    if wire == Wire.VARINT:
        if len(value) and value[-1] >= _LAST_BYTE:
            raise RemoteWireError("it has a number without an end")
        return int(np.count_nonzero(np.frombuffer(value, np.uint8) < _LAST_BYTE))
    size = 8 if wire == Wire.FIXED64 else 4
    if len(value) % size:
        raise RemoteWireError("it ends in the middle")
    return len(value) // size


def text(value: Value, bytes_max: int) -> str:
    """A string. Raises RemoteWireError where it is too long or no UTF-8."""
    assert not isinstance(value, int), "the wire of a field of text is BYTES"
    if len(value) > bytes_max:
        raise RemoteWireError(f"it has a name of {len(value)} bytes, more than {bytes_max}")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise RemoteWireError("it has a name that is no text") from error
