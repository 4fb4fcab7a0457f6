"""A manifest comes back as it was written, and one that cannot be true is refused."""

import msgspec
import pytest

from device_runtime.wire import limits
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.manifest import decode_manifest, encode_manifest, mask_name
from tests.fakes import manifest

replace = msgspec.structs.replace
WEIGHT = manifest().parameters[0]


def test_a_manifest_comes_back():
    assert decode_manifest(encode_manifest(manifest())) == manifest()


def test_equal_manifests_are_equal_bytes():
    assert encode_manifest(manifest()) == encode_manifest(manifest())


def test_prunable_parameters_and_shapes_come_in_table_order():
    assert manifest().prunable == ("fc.weight",)
    assert list(manifest().shapes().items()) == [("fc.weight", (2, 4)), ("fc.bias", (2,))]
    assert mask_name("fc.weight") == "fc.weight.mask"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ((WEIGHT, WEIGHT), "names a parameter twice"),
        (tuple(replace(WEIGHT, name=f"w{i}") for i in range(limits.TENSOR_COUNT_MAX + 1)), "or too many"),
        ((replace(WEIGHT, name=""),), "name of bad length"),
        ((replace(WEIGHT, name="ü" * 101),), "name of bad length"),
        ((replace(WEIGHT, shape=(0, 4)),), "impossible shape"),
        ((replace(WEIGHT, shape=(2, -4)),), "impossible shape"),
        ((replace(WEIGHT, shape=(1,) * 9),), "impossible shape"),
        ((replace(WEIGHT, shape=(2**31, 2**31, 2**31)),), "a model of more than"),
        ((replace(WEIGHT, shape=(2**15, 2**14)),), "a model of more than"),
    ],
)
def test_impossible_parameters_are_refused(parameters, says):
    with pytest.raises(RemoteWireError, match=says):
        decode_manifest(encode_manifest(replace(manifest(), parameters=parameters)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"format": 1', b'"format": 2'),
        (b'"model"', b'"modle"'),
        (b'"weight"', b'"wheight"'),
        (b'"cross_entropy"', b'"hinge"'),
        (b'"masked-dense"', b'""'),
        (b'"masked-dense"', b'"' + 64 * b"k" + b'"'),
        (b'"tiny"', b'"\xff"'),
        (b'"tiny"', b"7"),
        (b'"prunable": true', b'"prunable": 1'),
        (
            b"{",
            b"",
        ),
        (
            b"}",
            b"",
        ),
    ],
)
def test_malformed_manifests_are_refused(before, after):
    good = encode_manifest(manifest())
    assert before in good
    with pytest.raises(RemoteWireError, match="malformed"):
        decode_manifest(good.replace(before, after, 1))


def test_every_truncation_is_refused():
    good = encode_manifest(manifest())
    for end in range(len(good)):
        with pytest.raises(RemoteWireError):
            decode_manifest(good[:end])


def test_deep_nesting_is_refused():
    with pytest.raises(RemoteWireError):
        decode_manifest(b"[" * 100_000)
    with pytest.raises(RemoteWireError):
        decode_manifest(b'{"costs":' + b"[" * 100_000)
