"""Tensors, kept values and supports come back from the wire as they went in, as far as their type allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from device_runtime.wire.draws import Draws
from device_runtime.wire.submodel import decode_kept, decode_supports, encode_kept, encode_supports
from device_runtime.wire.support import Kept, Support, cut, sha256_hex
from device_runtime.wire.tensors import decode_files, decode_tensors, encode_files, encode_tensors
from tests.fakes import QUICK

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=6)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40).filter(
    lambda name: name != "__metadata__"
)
DTYPES = st.sampled_from([np.float32, np.float16, np.int64, np.int8, np.uint8]).map(np.dtype)
TENSORS = st.dictionaries(
    NAMES, DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)))
)
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def float_array(shape: int | tuple[int, ...], elements: st.SearchStrategy[float] = FLOATS):
    return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def supports(draw, shapes=SHAPES) -> Support:
    """A support of any kind."""
    shape = draw(shapes)
    kind = draw(st.sampled_from(["all", "mask", "axes"]))
    if kind == "all":
        return Support.everything(shape)
    if kind == "mask":
        return Support.from_mask(draw(hnp.arrays(np.bool_, shape)))
    chosen = [sorted(draw(st.sets(st.integers(0, side - 1)))) for side in shape]
    return Support.from_axes(shape, tuple(np.array(c, dtype=np.int64) for c in chosen))


@st.composite
def submodels(draw, elements: st.SearchStrategy[float] = FLOATS) -> dict[str, Kept]:
    """Some parameters, kept on supports of every kind."""
    found = {}
    for name in draw(st.lists(st.sampled_from(["w", "b", "conv.weight", "ü"]), unique=True, max_size=3)):
        support = draw(supports())
        found[name] = Kept(draw(float_array(support.count, elements)), support)
    return found


def travel(kept: dict[str, Kept], value_type: str, seed: int = 0) -> dict[str, Kept]:
    data = encode_kept(kept, lambda _: value_type, lambda name: Draws(seed, "rounding", name))
    return decode_kept(data, {name: k.support for name, k in kept.items()})


@QUICK
@given(TENSORS)
def test_tensors_come_back_bit_for_bit(tensors):
    decoded = decode_tensors(encode_tensors(tensors))
    assert decoded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        assert decoded[name].tobytes() == array.tobytes()


@QUICK
@given(TENSORS)
def test_equal_tensors_are_equal_bytes_in_any_order_and_memory_layout(tensors):
    again = {name: np.array(array, order="F") for name, array in reversed(tensors.items())}
    assert encode_tensors(again) == encode_tensors(tensors)


@QUICK
@given(st.dictionaries(NAMES.filter(lambda n: n and n[0] != "." and not set(n) & set("/\\")), st.binary()))
def test_files_come_back(files):
    assert decode_files(encode_files(files)) == files


@QUICK
@given(submodels())
def test_fp32_is_exact(kept):
    decoded = travel(kept, "fp32")
    assert list(decoded) == list(kept)
    for name, k in kept.items():
        assert decoded[name].values.tobytes() == k.values.tobytes()
        assert decoded[name].support is k.support


@QUICK
@given(submodels(st.floats(-65504, 65504, width=32)))
def test_fp16_is_within_half_a_unit_of_its_last_place(kept):
    for name, got in travel(kept, "fp16").items():
        sent = kept[name].values.astype(np.float64)
        bound = np.maximum(np.abs(sent) * 2.0**-11, 2.0**-25)
        assert (np.abs(got.values - sent) <= bound).all()


@QUICK
@given(submodels(), st.integers(0, 99))
def test_int8_is_within_one_step(kept, seed):
    for name, got in travel(kept, "int8", seed).items():
        sent = kept[name].values.astype(np.float64)
        scale = max(np.abs(sent).max(initial=0.0) / 127, np.finfo(np.float32).tiny)
        assert (np.abs(got.values - sent) <= scale * (1 + 1e-5)).all()


def test_int8_is_unbiased_over_many_draws():
    values = np.array([1.0, 0.3, -0.123, 0.00371, -0.999, 0.0], dtype=np.float32)
    kept = {"w": Kept(values, Support.everything(values.shape))}
    draws = 4000
    mean = np.mean([travel(kept, "int8", seed)["w"].values for seed in range(draws)], axis=0)
    step = 1.0 / 127
    assert np.abs(mean - values).max() < 4 * step / 2 / np.sqrt(draws)  # four standard errors of a coin's rounding


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-45, -1e-45], [1.9e-43, 1e-44], []])
def test_int8_of_values_too_small_for_a_scale_is_zero(values):
    array = np.array(values, dtype=np.float32)
    decoded = travel({"w": Kept(array, Support.everything(array.shape))}, "int8")
    assert np.array_equal(decoded["w"].values, np.zeros_like(array))


def test_the_same_draws_round_the_same_way():
    values = np.linspace(-1, 1, 100, dtype=np.float32)
    kept = {"w": Kept(values, Support.everything((100,)))}
    first, again, other = (
        encode_kept(kept, lambda _: "int8", lambda n, s=s: Draws(s, "rounding", n)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


@QUICK
@given(st.data(), supports())
def test_gather_undoes_scatter(data, support):
    values = data.draw(float_array(support.count))
    dense = support.scatter(values, fill=7.0)
    assert dense.shape == support.shape
    assert support.gather(dense).tobytes() == values.tobytes()
    assert (dense[~support.dense_mask()] == 7.0).all()


@QUICK
@given(st.data(), supports())
def test_scatter_undoes_gather_on_the_support(data, support):
    dense = data.draw(float_array(support.shape))
    mask = support.dense_mask()
    again = support.scatter(support.gather(dense))
    assert np.array_equal(again[mask], dense[mask])
    assert not again[~mask].any()
    assert int(mask.sum()) == support.count


@QUICK
@given(supports(), supports())
def test_supports_have_the_same_sha_exactly_when_they_are_equal(a, b):
    same = a.kind == b.kind and a.shape == b.shape and np.array_equal(a.dense_mask(), b.dense_mask())
    if a.kind == b.kind == "axes":
        assert a.indices is not None
        assert b.indices is not None
        same = a.shape == b.shape and all(map(np.array_equal, a.indices, b.indices))
    assert (a.sha == b.sha) == same


@QUICK
@given(st.data(), st.lists(SHAPES, max_size=4))
def test_supports_come_back(data, shapes):
    names = {f"p{i}": shape for i, shape in enumerate(shapes)}
    sent = {
        name: Support.from_mask(data.draw(hnp.arrays(np.bool_, shape)))
        if data.draw(st.booleans())
        else Support.everything(shape)
        for name, shape in names.items()
    }
    decoded = decode_supports(encode_supports(sent), names)
    assert {name: s.sha for name, s in decoded.items()} == {name: s.sha for name, s in sent.items()}


@QUICK
@given(st.data())
def test_a_cut_submodel_travels_and_lands_where_it_was_cut(data):
    support = data.draw(supports())
    dense = data.draw(float_array(support.shape))
    arrived = travel(cut({"w": dense}, {"w": support}), "fp32")["w"].dense()
    assert np.array_equal(arrived, np.where(support.dense_mask(), dense, 0))


@QUICK
@given(st.binary())
def test_a_blob_has_the_hash_of_its_bytes_as_name(data):
    assert sha256_hex(data) == sha256_hex(memoryview(data))
    assert len(sha256_hex(data)) == 64
