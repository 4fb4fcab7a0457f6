"""No bytes from the network do more than raise RemoteWireError: envelopes and the messages in them."""

import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from device_runtime.wire import limits
from device_runtime.wire.envelope import decode_message, encode_message, unreadable_assignment
from device_runtime.wire.errors import LocalWireError, RemoteWireError
from device_runtime.wire.messages import MESSAGE_TYPES, Hello, Release
from device_runtime.wire.topics import device_of
from tests.fakes import QUICK
from tests.golden.make import read_vector
from tests.golden.values import MESSAGES, VARIANTS

pack = msgspec.msgpack.encode


def decode(data: bytes):
    return decode_message(data, allow_unsigned=True)


def envelope(payload: object, payload_type: str = "Hello", protocol: object = 1, **more: object) -> bytes:
    """An envelope around anything."""
    data = payload if isinstance(payload, bytes) else pack(payload)
    return pack({"protocol": protocol, "payload_type": payload_type, "payload": data, "signatures": []} | more)


def fields(name: str, **changed: object) -> dict[str, object]:
    """The fields of a valid message, some of them changed."""
    return msgspec.to_builtins(MESSAGES[name], builtin_types=(bytes,)) | changed


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(RemoteWireError, match=match):
        decode(data)


@pytest.mark.parametrize("name", [*MESSAGES, *VARIANTS])
def test_every_truncation_is_refused(name):
    data = read_vector(f"message_{name}")
    for end in range(len(data)):
        refused(data[:end])


@pytest.mark.parametrize("name", [*MESSAGES, *VARIANTS])
def test_trailing_bytes_are_refused(name):
    refused(read_vector(f"message_{name}") + b"\x00")


@pytest.mark.parametrize("name", [*MESSAGES, *VARIANTS])
def test_every_changed_byte_is_refused_or_another_valid_message(name):
    data = bytearray(read_vector(f"message_{name}"))
    for index in range(len(data)):
        before = data[index]
        for value in (0x00, 0x7F, 0xFF, before ^ 1, before ^ 0x80):
            data[index] = value
            try:
                assert type(decode(bytes(data))).__name__ in MESSAGE_TYPES
            except RemoteWireError:
                continue
            finally:
                data[index] = before


@QUICK
@given(st.binary(max_size=400))
@example(b"\x81\xa8protocol\xff")
def test_random_bytes_are_refused(data):
    refused(data)


@QUICK
@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200))
@example("Release", b"\x81\xa6reason\xa1\xff")  # text that is not UTF-8
@example("Release", b"\x91" * 200)
def test_random_payloads_are_refused_or_valid(name, payload):
    try:
        message = decode(envelope(payload, name))
    except RemoteWireError:
        return
    assert type(message).__name__ == name


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an envelope"),
        (b"\xc0", "not an envelope"),
        (envelope(fields("Hello"), "Hullo"), "unknown message type 'Hullo'"),
        (envelope(fields("Hello"), "x" * 64), "not an envelope"),
        (envelope(fields("Hello"), protocol=2), "protocol 2 is not the 1"),
        (envelope(fields("Hello"), protocol=-1), "protocol -1"),
        (envelope(fields("Hello"), protocol="1"), "not an envelope"),
        (envelope(fields("Hello"), protocol=2**63), "protocol"),
        (envelope(fields("Hello"), surplus=1), "not an envelope"),
        (envelope(fields("Hello"), signatures=[b"x"]), "signed envelopes"),
        (envelope(fields("Hello"), signatures=[b""] * 9), "not an envelope"),
        (envelope(fields("Hello"), payload_type=b"\xff"), "not an envelope"),
        (envelope(fields("Goodbye")), "malformed Hello"),
        (envelope(b"\x91" * 100_000), "malformed Hello"),
        (b"\x91" * 100_000, "not an envelope"),
        (b"\x84\xa8protocol\x01\xa7surplus" + b"\x91" * 100_000, "not an envelope"),
        (b"\xdd\xff\xff\xff\xff", "not an envelope"),
        (b"\xdf\xff\xff\xff\xff", "not an envelope"),
        (b"\x81\xa7payload\xc6\xff\xff\xff\xff", "not an envelope"),
        (b"\x81\xacpayload_type\xdb\xff\xff\xff\xff", "not an envelope"),
        (envelope(b"\x81\xa7engines\xdd\xff\xff\xff\xff"), "malformed Hello"),
        (envelope(b"\x81\xa7indices\xdd\x7f\xff\xff\xff", "Get"), "malformed Get"),
    ],
)
def test_bad_envelopes_are_refused_with_a_reason(data, says):
    refused(data, says)


def test_lengths_that_lie_allocate_nothing():
    lies = [b"\xdd\xff\xff\xff\xff", b"\x81\xa7payload\xc6\xff\xff\xff\xff"]
    lies += [envelope(b"\x81\xa7indices\xdd\x7f\xff\xff\xff", "Get")]
    tracemalloc.start()
    try:
        for data in lies:
            refused(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_envelope_over_the_limit_is_refused_unread():
    refused(b"\xff" * (limits.ENVELOPE_BYTES_MAX + 1), "exceeds")


def test_a_chunk_of_the_full_size_fits_an_envelope():
    chunk = msgspec.structs.replace(
        MESSAGES["Chunk"], data=bytes(limits.CHUNK_BYTES_MAX), size_bytes=limits.BLOB_BYTES_MAX,
        index=limits.CHUNK_COUNT_MAX - 1,
    )  # fmt: skip
    assert decode(encode_message(chunk)) == chunk


def test_an_offer_that_keeps_back_as_much_as_it_may_fits_an_envelope():
    names = tuple(f"{i:0{limits.PARAMETER_NAME_BYTES_MAX}}" for i in range(limits.KEPT_BACK_COUNT_MAX))
    offer = msgspec.structs.replace(MESSAGES["Offer"], kept_back=names)
    assert decode(encode_message(offer)) == offer


def test_unsigned_envelopes_are_refused_where_signatures_are_demanded():
    with pytest.raises(RemoteWireError, match="allow_unsigned"):
        decode_message(encode_message(Release()), allow_unsigned=False)


@pytest.mark.parametrize(
    "device", ["", "-a", "A", "a b", "a/b", "a.b", "a+", "#", "é", "a" * 64, "a\n", "a\0", "..", 7, None, b"a"]
)
def test_bad_names_are_refused(device):
    refused(envelope(fields("Hello", device=device)), "malformed Hello")


@pytest.mark.parametrize("sha", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "../" + "0" * 61])
def test_bad_hashes_are_refused(sha):
    refused(envelope(fields("Get", sha=sha), "Get"), "malformed Get")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("Hello", {"sample_count": -1}),
        ("Hello", {"sample_count": limits.SAMPLE_COUNT_MAX + 1}),
        ("Hello", {"sample_count": 2**64 - 1}),
        ("Hello", {"sample_count": 1.5}),
        ("Hello", {"engines": ["x"] * 17}),
        ("Hello", {"engines": ["x" * 64]}),
        ("Hello", {"surplus": 1}),
        ("Goodbye", {"reason": "x" * 2001}),
        ("Welcome", {"round_index": -1}),
        ("Welcome", {"heartbeat_s": 0.0}),
        ("Welcome", {"heartbeat_s": NAN}),
        ("Welcome", {"heartbeat_s": INF}),
        ("Assignment", {"id": "run/1"}),
        ("Assignment", {"id": ""}),
        ("Assignment", {"id": "a\n"}),
        ("Assignment", {"ttl_s": 0.0}),
        ("Assignment", {"ttl_s": -INF}),
        ("Assignment", {"ttl_s": NAN}),
        ("Get", {"indices": [-1]}),
        ("Get", {"indices": [limits.CHUNK_COUNT_MAX]}),
        ("Get", {"indices": [0] * 65}),
        ("Chunk", {"index": -1}),
        ("Chunk", {"size_bytes": -1}),
        ("Chunk", {"size_bytes": limits.BLOB_BYTES_MAX + 1}),
        ("Chunk", {"data": "text"}),
        ("Offer", {"size_bytes": -1}),
        ("Offer", {"size_bytes": limits.BLOB_BYTES_MAX + 1}),
        ("Offer", {"sample_count": -5}),
        ("Offer", {"kept_back": "fc2.weight"}),
        ("Offer", {"kept_back": [""]}),
        ("Offer", {"kept_back": ["x" * (limits.PARAMETER_NAME_BYTES_MAX + 1)]}),
        ("Offer", {"kept_back": ["x"] * (limits.KEPT_BACK_COUNT_MAX + 1)}),
        ("Offer", {"kept_back": [1]}),
        ("Offer", {"kept_back": None}),
        ("Receipt", {"verdict": "maybe"}),
    ],
)
def test_values_outside_their_range_are_refused(name, changed):
    refused(envelope(fields(name, **changed), name), f"malformed {name}")


def test_a_chunk_over_the_limit_is_refused():
    chunk = fields("Chunk", data=bytes(limits.CHUNK_BYTES_MAX + 1))
    refused(envelope(chunk, "Chunk"), "malformed Chunk")


@pytest.mark.parametrize(
    "hyper", [{"learning_rate": NAN}, {"learning_rate": INF}, {"learning_rate": 0.0}, {"learning_rate": -1.0},
              {"batch_size": 0}, {"epoch_count": -1}, {"epoch_count": 10_001}, {"update_dtype": "fp64"}, {"seed": "x"}]
)  # fmt: skip
def test_hyperparameters_outside_their_range_are_refused(hyper):
    good = fields("Assignment")
    refused(envelope(good | {"hyper": good["hyper"] | hyper}, "Assignment"), "malformed Assignment")


@pytest.mark.parametrize(
    "reading",
    [
        [None, "measured"],
        [1, "absent"],
        [1, "guessed"],
        [1],
        [1, "measured", 2],
        "x",
        [NAN, "measured"],
        [INF, "derived"],
    ],
)
def test_readings_that_contradict_themselves_are_refused(reading):
    good = fields("Offer")
    bad = good | {"measurement": good["measurement"] | {"rss_bytes": reading}}
    refused(envelope(bad, "Offer"), "malformed Offer")


@pytest.mark.parametrize("field", [name for name in Hello.__struct_fields__ if name != "profile"])
def test_a_missing_field_is_refused(field):
    rest = {key: value for key, value in fields("Hello").items() if key != field}
    refused(envelope(rest), "missing required field")


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(MESSAGES["Hello"], device="Pi 1"),
        msgspec.structs.replace(MESSAGES["Offer"], size_bytes=-1),
        msgspec.structs.replace(MESSAGES["Release"], reason="x" * 2001),
        msgspec.structs.replace(MESSAGES["Chunk"], data=bytes(limits.CHUNK_BYTES_MAX + 1)),
    ],
)
def test_what_we_would_refuse_we_do_not_send(message):
    with pytest.raises(LocalWireError):
        encode_message(message)


@pytest.mark.parametrize(
    "topic",
    ["", "espalier/1/site/d/pi-1/dn", "espalier/1/site/all", "espalier/1/site/d/pi-1/up/x", "espalier/1/site/d//up",
     "espalier/1/site/d/Pi/up", "espalier/2/site/d/pi-1/up", "other/1/site/d/pi-1/up", "espalier/1/Site/d/pi-1/up",
     "espalier/1/site/d/+/up", "espalier/1/site/d/pi-1\n/up", "/espalier/1/site/d/pi-1/up"],
)  # fmt: skip
def test_a_topic_that_is_no_devices_is_refused(topic):
    with pytest.raises(RemoteWireError, match="not a device's topic"):
        device_of(topic)


# --- assignments of a later version -------------------------------------------------------------------------------

NAME, ID = MESSAGES["Assignment"].device, MESSAGES["Assignment"].id


def id_of(data: bytes) -> str | None:
    return unreadable_assignment(data, NAME, allow_unsigned=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"proximal": 0.1},
        {"hyper": {"clip": 1.0}},
        {"ttl_s": -1.0},
        {"support_shas": None},
    ],
)
def test_the_id_of_an_assignment_that_cannot_be_read_is_known(changed):
    data = envelope(fields("Assignment", **changed), "Assignment")
    refused(data)
    assert id_of(data) == ID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        envelope(fields("Assignment", new=1), "Assignment", protocol=2),
        envelope(fields("Assignment", new=1), "Assignment", signatures=[b"s"]),
        envelope(fields("Assignment", new=1), "Offer"),
        envelope(fields("Assignment", new=1, device="another"), "Assignment"),
        envelope(fields("Assignment", id="No id"), "Assignment"),
        envelope({"device": NAME}, "Assignment"),
        envelope(b"\x91" * 200, "Assignment"),
        envelope(fields("Hello"), "Hello"),
    ],
)
def test_of_nothing_else_an_id_is_known(data):
    assert id_of(data) is None


@QUICK
@given(st.binary(max_size=400))
def test_no_bytes_make_the_lenient_look_raise(data):
    assert id_of(data) is None
    assert id_of(envelope(data, "Assignment")) is None
