"""No blob does more than raise RemoteWireError, whatever it declares, and none makes us allocate what it declares."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.wire import limits
from device_runtime.wire.errors import LocalWireError, RemoteWireError
from device_runtime.wire.messages import MaskAdjustment
from device_runtime.wire.submodel import decode_kept, decode_supports, encode_kept
from device_runtime.wire.support import Kept, Support
from device_runtime.wire.tensors import decode_files, decode_tensors, encode_files, encode_tensors, zstd
from device_runtime.wire.update import decode_update
from tests import fakes
from tests.fakes import QUICK
from tests.golden.make import read_vector
from tests.golden.values import BLOBS, PARAMETERS, SHAPES, SUPPORTS

MIB = 1 << 20
ASSIGNMENT = fakes.assignment(adjust=MaskAdjustment(after_epochs=1, share=0.2))
OFFER = fakes.offer(ASSIGNMENT, extras=("mask",))
READERS = {
    "kept_fp32": lambda data: decode_kept(data, SUPPORTS),
    "kept_fp16": lambda data: decode_kept(data, SUPPORTS),
    "kept_int8": lambda data: decode_kept(data, SUPPORTS),
    "kept_moved": lambda data: decode_update(data, OFFER, ASSIGNMENT, SUPPORTS, PARAMETERS),
    "supports": lambda data: decode_supports(data, SHAPES),
    "tensors": decode_tensors,
    "files": decode_files,
}


def blob(layout: bytes, *, declared: int | None = None, magic: bytes = b"ESPT", version: int = 1) -> bytes:
    """A tensor blob around any layout, declaring any size."""
    size = len(layout) if declared is None else declared
    return struct.pack("<4sBxxxQ", magic, version, size) + zstd.compress(layout)


def layout(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """The safetensors layout with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(read, data: bytes, match: str | None = None) -> None:
    with pytest.raises(RemoteWireError, match=match):
        read(data)


def peak_bytes(action) -> int:
    """The most memory that Python objects took while `action` ran."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- any bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOBS)
def test_every_truncation_is_refused(name):
    data = read_vector(f"blob_{name}")
    for end in range(len(data)):
        refused(READERS[name], data[:end])


@pytest.mark.parametrize("name", BLOBS)
def test_trailing_bytes_are_refused(name):
    refused(READERS[name], read_vector(f"blob_{name}") + b"\x00")
    refused(READERS[name], read_vector(f"blob_{name}") * 2)


@pytest.mark.parametrize("name", BLOBS)
def test_every_flipped_bit_is_refused_or_read(name):
    data = bytearray(read_vector(f"blob_{name}"))
    for index in range(len(data)):
        for bit in range(8):
            data[index] ^= 1 << bit
            try:
                READERS[name](bytes(data))
            except RemoteWireError:
                pass
            finally:
                data[index] ^= 1 << bit


@QUICK
@given(st.sampled_from(sorted(BLOBS)), st.data())
def test_mutated_layouts_are_refused_or_read(name, data):
    """Mutated before compression, so that the mutation reaches the layout's reader."""
    flat = bytearray(zstd.decompress(read_vector(f"blob_{name}")[16:]))
    for _ in range(data.draw(st.integers(1, 8))):
        flat[data.draw(st.integers(0, len(flat) - 1))] = data.draw(st.integers(0, 255))
    try:
        READERS[name](blob(bytes(flat)))
    except RemoteWireError:
        return


@QUICK
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    for read in READERS.values():
        refused(read, data)
        refused(read, blob(data))


# --- sizes that lie ------------------------------------------------------------------------------------------------


def test_a_bomb_that_declares_little_inflates_little():
    bomb = blob(bytes(100 * MIB), declared=1000)
    assert len(bomb) < MIB
    assert peak_bytes(lambda: refused(decode_tensors, bomb, "declares 1000 bytes")) < 16 * MIB


def test_a_bomb_that_declares_what_it_is_meets_what_is_expected():
    bomb = blob(bytes(100 * MIB))
    assert peak_bytes(lambda: refused(READERS["kept_fp32"], bomb, "more than the")) < MIB
    assert peak_bytes(lambda: refused(READERS["supports"], bomb, "more than the")) < MIB


def test_a_size_is_not_allocated_before_there_are_bytes_for_it():
    liar = blob(b"x", declared=limits.DECODED_BYTES_MAX)
    assert peak_bytes(lambda: refused(decode_tensors, liar, "holds another number")) < MIB


@pytest.mark.parametrize("declared", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_a_declared_size_that_is_not_the_true_one_is_refused(declared):
    refused(decode_tensors, blob(layout({"a": entry("U8", [1], 0, 1)}, b"x"), declared=declared))


def test_a_size_over_the_limit_is_refused_whatever_is_expected():
    over = blob(b"", declared=limits.DECODED_BYTES_MAX + 1)
    refused(lambda data: decode_tensors(data, decoded_bytes_max=2**62), over, "declares")


@pytest.mark.parametrize(("magic", "version"), [(b"ESPU", 1), (b"\0\0\0\0", 1), (b"ESPT", 0), (b"ESPT", 2)])
def test_another_format_is_refused(magic, version):
    refused(decode_tensors, blob(layout({}), magic=magic, version=version), "not a tensor blob")


def test_a_window_over_the_limit_is_refused():
    wide = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=wide)
    flat = layout({"a": entry("U8", [4], 0, 4)}, b"abcd")
    frame = compressor.compress(flat, mode=compressor.CONTINUE) + compressor.flush()
    refused(decode_tensors, struct.pack("<4sBxxxQ", b"ESPT", 1, len(flat)) + frame, "does not decompress")


# --- layouts that lie ----------------------------------------------------------------------------------------------

ONE = entry("U8", [1], 0, 1)


@pytest.mark.parametrize(
    "flat",
    [
        b"",
        b"\0" * 7,
        layout({}, length=2**63),
        layout({}, length=limits.TENSOR_HEADER_BYTES_MAX + 1),
        layout({}, length=1000),
        layout(b"not json"),
        layout(b"\xff\xff"),
        layout([]),
        layout(b'{"a":' * 5000),
        layout({"a": ONE}),
        layout({"a": ONE}, b"xy"),
        layout({"a": entry("U8", [2], 0, 1)}, b"x"),
        layout({"a": entry("U8", [-1], 0, 1)}, b"x"),
        layout({"a": entry("U8", [1], 1, 0)}, b"x"),
        layout({"a": entry("U8", [1], -1, 0)}, b"x"),
        layout({"a": entry("F32", [2**32, 2**32, 2**32], 0, 0)}),
        layout({"a": entry("F32", [2**62], 0, 0)}),
        layout({"a": ONE, "b": ONE}, b"x"),
        layout({"a": ONE, "b": entry("U8", [1], 2, 3)}, b"xyz"),
        layout({"a": entry("F64", [1], 0, 8)}, bytes(8)),
        layout({"a": entry("BF16", [1], 0, 2)}, bytes(2)),
        layout({"a": entry("BOOL", [1], 0, 1)}, b"\x02"),
        layout({"a": entry("U64", [1], 0, 8)}, bytes(8)),
        layout({"a": entry("F8_E4M3", [1], 0, 1)}, b"x"),
        layout({"a": entry("X", [1], 0, 1)}, b"x"),
        layout({"a": entry("U8", [1] * 9, 0, 1)}, b"x"),
        layout({"a" * 201: ONE}, b"x"),
        layout({f"t{i}": entry("U8", [0], 0, 0) for i in range(limits.TENSOR_COUNT_MAX + 1)}),
    ],
)  # fmt: skip
def test_bad_layouts_are_refused(flat):
    refused(decode_tensors, blob(flat))


def test_a_tensor_named_twice_is_refused():
    twice = json.dumps({"a": ONE})[:-1] + "," + json.dumps({"a": entry("U8", [1], 1, 2)})[1:]
    refused(decode_tensors, blob(layout(twice.encode(), b"xy")))


# --- updates -------------------------------------------------------------------------------------------------------

FOUR = {"w": Support.everything((4,))}
SCALE = np.array([0.5], dtype=np.float32)
INT8 = np.array([1, 2, 3, 4], dtype=np.int8)
FP32 = np.ones(4, dtype=np.float32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "'w' is missing"),
        ({"w": FP32, "v": FP32[:1]}, "unknown tensor 'v'"),
        ({"w": FP32, "w#scale": SCALE}, "unknown tensor 'w#scale'"),
        ({"w#scale": SCALE}, "unknown tensor"),
        ({"w": FP32[:3]}, "where 4 values"),
        ({"w": np.ones((2, 2), np.float32)}, "where 4 values"),
        ({"w": np.ones(5, np.float32)}, "where 4 values"),
        ({"w": np.ones(4, np.int64)}, "dtype int64|more than the"),
        ({"w": np.ones(4, np.uint8)}, "dtype uint8"),
        ({"w": f32(1, np.nan, 1, 1)}, "not finite"),
        ({"w": f32(1, -np.inf, 1, 1)}, "not finite"),
        ({"w": np.array([1, np.inf, 1, 1], np.float16)}, "not finite"),
        ({"w": INT8}, "no valid scale"),
        ({"w": INT8, "w#scale": f32(0.5, 0.5)}, "no valid scale"),
        ({"w": INT8, "w#scale": np.array(0.5, np.float32)}, "no valid scale"),
        ({"w": INT8, "w#scale": np.array([0.5], np.float16)}, "no valid scale"),
        ({"w": INT8, "w#scale": f32(-0.5)}, "no valid scale"),
        ({"w": INT8, "w#scale": f32(0)}, "no valid scale"),
        ({"w": INT8, "w#scale": f32(np.nan)}, "no valid scale"),
        ({"w": INT8, "w#scale": f32(np.inf)}, "not finite"),
        ({"w": INT8, "w#scale": f32(3e38)}, "not finite"),
    ],
)
def test_updates_that_do_not_fit_are_refused_with_a_reason(tensors, says):
    refused(lambda data: decode_kept(data, FOUR), encode_tensors(tensors), says)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverged_update_is_not_sent(value):
    with pytest.raises(LocalWireError, match="diverged"):
        encode_kept({"w": Kept(f32(1, 2, 3, value), FOUR["w"])}, lambda _: "fp32", lambda _: None)


def test_values_beyond_fp16_are_not_sent_as_infinity():
    with pytest.raises(LocalWireError, match="use fp32"):
        encode_kept({"w": Kept(f32(1, 2, 3, 1e6), FOUR["w"])}, lambda _: "fp16", lambda _: None)


def test_a_name_that_would_clash_with_a_scale_is_not_sent():
    with pytest.raises(LocalWireError, match="rename it"):
        encode_kept({"w#scale": Kept(f32(1, 2, 3, 4), FOUR["w"])}, lambda _: "fp32", lambda _: None)


# --- supports and files --------------------------------------------------------------------------------------------


def u8(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"v": u8(0)}, "unknown tensor 'v'"),
        ({"w": u8()}, "does not fit"),
        ({"w": u8(0, 0, 0)}, "does not fit"),
        ({"w": u8(0)}, "does not fit"),
        ({"w": u8(0, 0).reshape(1, 2)}, "does not fit"),
        ({"w": np.zeros(2, np.int8)}, "does not fit"),
        ({"w": u8(0xFF, 0b11100000)}, "bits beyond its 10"),
        ({"w": u8(0xFF, 0b00000001)}, "bits beyond its 10"),
    ],
)
def test_masks_that_do_not_fit_are_refused_with_a_reason(tensors, says):
    refused(lambda data: decode_supports(data, {"w": (2, 5)}), encode_tensors(tensors), says)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "../up", "a\\b", "a\0b", "a/"])
def test_file_names_that_could_leave_their_folder_are_refused(name):
    refused(decode_files, encode_files({name: b"x"}), "not a plain file name")


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((2, 2), np.uint8), np.zeros(3, np.int8)])
def test_a_tensor_that_is_no_file_is_refused(array):
    refused(decode_files, encode_tensors({"a": array}), "is not a file")


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.zeros(1, np.float64)},
        {"a": np.zeros(1, bool)},
        {"a": np.zeros((1,) * 9, np.float32)},
        {"a" * 201: np.zeros(1, np.float32)},
        {f"t{i}": np.zeros(0, np.uint8) for i in range(limits.TENSOR_COUNT_MAX + 1)},
    ],
)  # fmt: skip
def test_what_we_would_refuse_we_do_not_send(tensors):
    with pytest.raises(LocalWireError):
        encode_tensors(tensors)
