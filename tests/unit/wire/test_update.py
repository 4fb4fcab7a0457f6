"""An update on moved masks: it lies where the device ended, and a mask that is not what was asked for is refused."""

import msgspec
import numpy as np
import pytest

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.messages import Assignment, MaskAdjustment
from device_runtime.wire.submodel import encode_kept
from device_runtime.wire.support import Kept, Support
from device_runtime.wire.tensors import Tensor, encode_tensors
from device_runtime.wire.update import decode_update, extras_of, mask_extras, movable, update_bytes_max
from tests import fakes

PARAMETERS = (
    Parameter(name="fc1.weight", shape=(2, 4), role="weight", prunable=True),
    Parameter(name="fc1.bias", shape=(2,), role="bias", prunable=False),
    Parameter(name="fc2.weight", shape=(3, 2), role="weight", prunable=True),
)
# Of eight elements six are kept, so a share of 1/3 moves two; of the last layer all six are kept.
ASSIGNED = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
SUPPORTS = {
    "fc1.weight": Support.from_mask(ASSIGNED),
    "fc1.bias": Support.everything((2,)),
    "fc2.weight": Support.from_mask(np.ones((3, 2), dtype=bool)),
}
ADJUSTED = fakes.assignment(adjust=MaskAdjustment(after_epochs=2, share=1 / 3))
WHOLE = np.ones((3, 2), dtype=bool)
MOVED = np.array([[0, 1, 1, 1], [1, 1, 1, 0]], dtype=bool)  # the first went, the fourth came


def packed(mask: np.ndarray) -> Tensor:
    """A mask as it travels."""
    return np.packbits(mask.ravel())


def tensors(**changed: Tensor | None) -> dict[str, Tensor]:
    """The tensors of a valid update on MOVED; underscores stand for dots, `X_mask` for `X#mask`; None takes one out."""
    valid: dict[str, Tensor] = {
        "fc1.weight": np.arange(6, dtype=np.float32), "fc1.bias": np.array([0.5, 1.5], np.float32),
        "fc2.weight": np.full(6, -1, np.float32), "fc1.weight#mask": packed(MOVED), "fc2.weight#mask": packed(WHOLE),
    }  # fmt: skip
    for key, value in changed.items():
        name = key.replace("_mask", "#mask").replace("_", ".")
        if value is None:
            del valid[name]
        else:
            valid[name] = value
    return valid


def decode(
    found: dict[str, Tensor], assignment: Assignment = ADJUSTED, extras: tuple[str, ...] = ("mask",),
    kept_back: tuple[str, ...] = (),
) -> dict[str, Kept]:  # fmt: skip
    """The update of these tensors, read as the aggregator reads it."""
    data = encode_tensors(found)
    offer = fakes.offer(assignment, data, kept_back=kept_back, extras=extras)
    return decode_update(data, offer, assignment, SUPPORTS, PARAMETERS)


def test_values_come_back_on_the_support_the_device_ended_with() -> None:
    kept = decode(tensors())
    assert list(kept) == list(SUPPORTS)
    assert kept["fc1.weight"].dense().tolist() == [[0, 0, 1, 2], [3, 4, 5, 0]]
    assert kept["fc1.weight"].support.dense_mask().tolist() == MOVED.tolist()
    assert kept["fc1.bias"].support is SUPPORTS["fc1.bias"]
    assert kept["fc2.weight"].dense().tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("value_type", ["fp32", "fp16", "int8"])
def test_what_the_device_encodes_is_what_is_decoded(value_type) -> None:
    values = np.array([127, -64, 0, 1, 2, -3], dtype=np.float32)
    kept = {"fc1.weight": Kept(values, Support.from_mask(MOVED)), "fc1.bias": Kept(values[:2], SUPPORTS["fc1.bias"])}
    masks = mask_extras({"fc1.weight": kept["fc1.weight"].support})
    data = encode_kept(kept, lambda _: value_type, lambda n: Draws(1, "test", n), masks)
    offer = fakes.offer(ADJUSTED, data, kept_back=("fc2.weight",), extras=extras_of(ADJUSTED))
    found = decode_update(data, offer, ADJUSTED, SUPPORTS, PARAMETERS)
    assert {n: k.values.tolist() for n, k in found.items()} == {n: k.values.tolist() for n, k in kept.items()}
    assert found["fc1.weight"].support.sha == kept["fc1.weight"].support.sha


def test_without_an_adjustment_an_update_is_read_as_ever() -> None:
    plain = fakes.assignment()
    found = {n: t for n, t in tensors().items() if "#" not in n}
    assert decode(found, plain, ())["fc1.weight"].support is SUPPORTS["fc1.weight"]


FIVE, SEVEN = MOVED.copy(), MOVED.copy()
FIVE[0, 1], SEVEN[0, 0] = False, True


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"fc1_weight_mask": packed(np.zeros((2, 9), bool))}, "the mask of 'fc1.weight' does not fit its shape"),
        ({"fc1_weight_mask": MOVED.astype(np.uint8)}, "does not fit its shape"),
        ({"fc1_weight_mask": packed(MOVED).astype(np.int8)}, "does not fit its shape"),
        ({"fc1_weight_mask": packed(SEVEN)}, "keeps 7 elements where 6 were assigned"),
        ({"fc1_weight_mask": packed(SEVEN), "fc1_weight": np.ones(7, np.float32)}, "keeps 7 elements where 6"),
        ({"fc1_weight_mask": packed(FIVE), "fc1_weight": np.ones(5, np.float32)}, "keeps 5 elements where 6"),
        ({"fc1_weight": np.ones(5, np.float32)}, "where 6 values were expected"),
        ({"fc1_weight": np.ones(8, np.float32)}, "where 6 values were expected"),
        ({"fc1_weight_mask": None}, "the mask of 'fc1.weight' is missing"),
        ({"fc2_weight_mask": None}, "the mask of 'fc2.weight' is missing"),
        ({"fc2_weight_mask": np.array([0b11111101], np.uint8)}, "bits beyond its 6 elements"),
        ({"fc2_weight_mask": np.array([0b11111000], np.uint8)}, "keeps 5 elements where 6"),
        ({"fc1_bias_mask": np.array([0b11000000], np.uint8)}, "unknown tensor 'fc1.bias#mask'"),
        ({"fc3_weight_mask": np.array([0], np.uint8)}, "unknown tensor 'fc3.weight#mask'"),
        ({"fc1_weight#scores": np.ones(8, np.float32)}, "unknown tensor 'fc1.weight#scores'"),
    ],
)  # fmt: skip
def test_a_mask_that_is_not_what_was_asked_for_is_refused(changed, why) -> None:
    with pytest.raises(RemoteWireError, match=why):
        decode(tensors(**changed))


def test_a_mask_that_moved_further_than_the_assignment_says_is_refused() -> None:
    further = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], dtype=bool)
    assert decode(tensors(fc1_weight_mask=packed(further)))["fc1.weight"].support.count == 6
    one = msgspec.structs.replace(ADJUSTED, adjust=MaskAdjustment(after_epochs=2, share=0.2))
    with pytest.raises(RemoteWireError, match="moved 2 of 6 elements; at most 1 may"):
        decode(tensors(fc1_weight_mask=packed(further)), one)


@pytest.mark.parametrize(
    ("assignment", "extras", "why"),
    [
        (ADJUSTED, (), "names the extras none; asked for: 'mask'"),
        (ADJUSTED, ("mask", "mask"), "asked for: 'mask'"),
        (ADJUSTED, ("mask", "scores"), "asked for: 'mask'"),
        (fakes.assignment(), ("mask",), "names the extras 'mask'; asked for: none"),
    ],
)
def test_an_offer_of_other_extras_than_those_asked_for_is_refused(assignment, extras, why) -> None:
    with pytest.raises(RemoteWireError, match=why):
        decode(tensors(), assignment, extras)


def test_masks_that_nobody_asked_for_are_refused_though_the_offer_hides_them() -> None:
    with pytest.raises(RemoteWireError, match=r"unknown tensor 'fc1\.weight#mask'"):
        decode(tensors(), fakes.assignment(), ())


def test_a_tensor_kept_back_has_no_mask_in_the_update() -> None:
    assert movable(PARAMETERS, ()) == ("fc1.weight", "fc2.weight")
    assert movable(PARAMETERS, ("fc2.weight",)) == ("fc1.weight",)
    kept = decode(tensors(fc2_weight=None, fc2_weight_mask=None), kept_back=("fc2.weight",))
    assert list(kept) == ["fc1.weight", "fc1.bias"]
    with pytest.raises(RemoteWireError, match=r"unknown tensor 'fc2\.weight#mask'"):
        decode(tensors(fc2_weight=None), kept_back=("fc2.weight",))


def test_an_update_fits_the_bytes_that_are_allowed_for_it() -> None:
    rng = np.random.default_rng(0)
    supports = {"w": Support.from_mask(rng.random((300, 200)) < 0.5)}
    kept = {"w": Kept(rng.normal(size=supports["w"].count).astype(np.float32), supports["w"])}
    masks = mask_extras(supports)
    data = encode_kept(kept, lambda _: "fp32", lambda n: Draws(1, "test", n), masks)
    assert len(data) <= update_bytes_max(supports, ("mask",))
    assert update_bytes_max(supports, ("mask",)) - update_bytes_max(supports) == 300 * 200 // 8 + 1024


@pytest.mark.parametrize(
    ("share", "kept", "moved"), [(0.5, 5, 2), (1.0, 5, 5), (0.1, 9, 0), (0.1, 10, 1), (0.29, 100, 28)]
)
def test_how_many_move_is_the_floor_in_double_precision(share, kept, moved) -> None:
    assert MaskAdjustment(after_epochs=0, share=share).moved(kept) == moved
