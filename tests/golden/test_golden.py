"""Bytes recorded once mean today what they meant then; encoded again, envelopes are the same bytes."""

import struct

import msgspec
import numpy as np
import pytest

from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.messages import MESSAGE_TYPES, BlobRef, Hello
from device_runtime.wire.submodel import decode_kept, decode_supports
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.tensors import decode_files, decode_tensors
from device_runtime.wire.update import decode_update
from tests import fakes
from tests.golden.make import VECTORS, read_vector
from tests.golden.values import (
    BLOBS,
    FILES,
    MASK,
    MESSAGES,
    MOVED,
    PARAMETERS,
    SHAPES,
    SUPPORTS,
    TENSORS,
    VALUES,
    VARIANTS,
)

EVERY = MESSAGES | VARIANTS


def test_there_is_a_vector_for_every_message_and_blob_and_no_other():
    assert set(MESSAGES) == set(MESSAGE_TYPES)
    expected = {f"message_{name}.bin" for name in EVERY} | {f"blob_{name}.bin" for name in BLOBS}
    assert {path.name for path in VECTORS.iterdir()} == expected


@pytest.mark.parametrize("name", EVERY)
def test_a_recorded_envelope_means_its_message(name):
    assert decode_message(read_vector(f"message_{name}"), allow_unsigned=True) == EVERY[name]


@pytest.mark.parametrize("name", EVERY)
def test_a_message_is_encoded_as_it_was_recorded(name):
    assert encode_message(EVERY[name]) == read_vector(f"message_{name}")


def test_an_offer_that_keeps_nothing_back_does_not_mention_it():
    assert b"kept_back" in read_vector("message_Offer_kept_back")
    assert b"kept_back" not in read_vector("message_Offer")


def test_an_assignment_and_an_offer_say_nothing_of_what_is_not_asked_for():
    assert b"adjust" in read_vector("message_Assignment_adjust")
    assert b"adjust" not in read_vector("message_Assignment")
    assert b"extras" in read_vector("message_Offer_extras")
    assert b"extras" not in read_vector("message_Offer")


def test_an_envelope_byte_by_byte():
    """The worked example of FORMAT.md, so that the page cannot drift from the code."""
    payload = b"\x81\xa7session\xa2a1"
    assert read_vector("message_RollCall") == (
        b"\x84\xa8protocol\x01\xacpayload_type\xa8RollCall\xa7payload\xc4" + bytes([len(payload)]) + payload
        + b"\xaasignatures\x90"
    )  # fmt: skip


def test_a_hello_with_a_profile_is_the_recorded_one_and_a_field_more():
    hello = MESSAGES["Hello"]
    profile = BlobRef(sha=sha256_hex(b"profile"), size_bytes=7)
    plain, with_profile = (msgspec.msgpack.encode(h) for h in (hello, msgspec.structs.replace(hello, profile=profile)))
    assert plain in read_vector("message_Hello")
    assert (plain[0], with_profile[0]) == (0x85, 0x86)  # maps of 5 and 6
    assert with_profile[1:].startswith(plain[1:] + b"\xa7profile\x82\xa3sha\xd9\x40")
    assert msgspec.msgpack.decode(with_profile, type=Hello).profile == profile


@pytest.mark.parametrize("value_type", ["fp32", "fp16", "int8"])
def test_a_recorded_update_means_its_values(value_type):
    decoded = decode_kept(read_vector(f"blob_kept_{value_type}"), SUPPORTS)
    assert list(decoded) == list(SUPPORTS)
    for name, kept in decoded.items():
        assert kept.values.dtype == np.float32
        assert kept.values.tolist() == VALUES[name].tolist()


def test_a_recorded_update_on_moved_masks_means_its_values_and_its_mask():
    assignment = VARIANTS["Assignment_adjust"]
    offer = fakes.offer(assignment, extras=("mask",))
    decoded = decode_update(read_vector("blob_kept_moved"), offer, assignment, SUPPORTS, PARAMETERS)
    assert decoded["fc.weight"].support.sha == MOVED.sha
    assert decoded["fc.bias"].support.sha == SUPPORTS["fc.bias"].sha
    assert {name: kept.values.tolist() for name, kept in decoded.items()} == {n: v.tolist() for n, v in VALUES.items()}


def test_recorded_supports_mean_their_masks():
    decoded = decode_supports(read_vector("blob_supports"), SHAPES)
    assert decoded["fc.weight"].mask.tolist() == MASK.tolist()
    assert {name: s.sha for name, s in decoded.items()} == {name: s.sha for name, s in SUPPORTS.items()}


def test_the_hash_of_a_support_is_the_recorded_one():
    assert SUPPORTS["fc.weight"].sha == sha256_hex(b"mask:(2, 5):" + bytes([0b10011001, 0b01000000]))
    assert SUPPORTS["fc.bias"].sha == sha256_hex(b"all:(2,)")


def test_recorded_tensors_mean_their_arrays():
    decoded = decode_tensors(read_vector("blob_tensors"))
    assert set(decoded) == set(TENSORS)
    for name, array in decoded.items():
        assert (array.dtype, array.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
        assert array.tobytes() == TENSORS[name].tobytes()


def test_recorded_files_mean_their_content():
    assert decode_files(read_vector("blob_files")) == FILES


@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_is_the_same_bytes_every_time(name):
    assert BLOBS[name]() == BLOBS[name]()


@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_begins_with_its_prefix_and_a_zstd_frame(name):
    data = read_vector(f"blob_{name}")
    magic, version, _size = struct.unpack_from("<4sBxxxQ", data)
    assert (magic, version, data[16:20]) == (b"ESPT", 1, bytes.fromhex("28b52ffd"))
