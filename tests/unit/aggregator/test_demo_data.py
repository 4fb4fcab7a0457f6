"""The demo's data: layouts, normalisation, partitions, label noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.demo.dataset import guess_layout, input_spec, load_dataset
from aggregator.demo.partition import SAMPLES_MIN, Noise, parse_noise, partition, spoil
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError


@pytest.mark.parametrize(
    ("shape", "model", "layout"),
    [
        ((28, 28), "lenet5", "hw"),
        ((8, 8), "mlp", "hw"),
        ((32, 32, 3), "cnn", "hwc"),
        ((3, 32, 32), "cnn", "chw"),
        ((1, 28, 28), "lenet5", "chw"),
        ((128, 6), "cnn1d", "tc"),
        ((40, 49), "cnn1d", "ct"),
        ((1024,), "cnn1d", "t"),
    ],
)
def test_the_likely_layout_is_guessed(shape: tuple[int, ...], model: str, layout: str) -> None:
    assert guess_layout(shape, model) == layout


def test_each_channel_is_normalised_over_the_training_set() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(0, 1, (500, 16, 3)) * [10, 200, 3000] + [5, -7, 900]).astype(np.int16)
    spec = input_spec(x, "tc", "cnn1d", np.array([0.1, 0.2, 0.3], dtype=np.float32))
    assert spec.shape == (3, 16)
    y = spec.apply(x)
    assert y.shape == (500, 3, 16)
    assert y.mean(axis=(0, 2)) == pytest.approx([0, 0, 0], abs=1e-3)
    assert y.std(axis=(0, 2)) == pytest.approx([1, 1, 1], abs=1e-3)
    assert y[7, 1, 3] == pytest.approx((x[7, 3, 1] - x[:, :, 1].mean()) / x[:, :, 1].std(), rel=1e-3)


def test_bundled_digits_are_the_uci_set_split_for_test() -> None:
    data = load_dataset("digits", "auto", "mlp")
    assert (len(data.x_train), len(data.x_test), data.class_count) == (1438, 359, 10)
    assert data.input.shape == (1, 8, 8)
    assert int(data.x_train.max()) == 16
    share = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert share == pytest.approx(np.full(10, 0.2), abs=0.01)


def test_a_data_file_without_an_array_is_refused_by_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((3, 2)), y_train=np.zeros(3, dtype=np.int64))
    with pytest.raises(UsageError, match="no array 'x_test'"):
        load_dataset(str(tmp_path / "d.npz"), "auto", "mlp")


LABELS = np.random.default_rng(1).integers(0, 10, 2000)
GROUPS: Mapping[str, Any] = {"subject": np.random.default_rng(2).integers(0, 7, 2000)}


@pytest.mark.parametrize("rule", ["iid", "dirichlet:0.5", "dirichlet:0.1", "by:subject"])
def test_a_partition_uses_every_sample_once_and_gives_each_device_enough(rule: str) -> None:
    parts = partition(rule, LABELS, dict(GROUPS), 5, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(2000))
    assert min(len(p) for p in parts) >= SAMPLES_MIN
    again = partition(rule, LABELS, dict(GROUPS), 5, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_by_group_never_divides_a_group() -> None:
    parts = partition("by:subject", LABELS, dict(GROUPS), 3, seed=0)
    seen = [set(GROUPS["subject"][p]) for p in parts]
    assert sum(len(groups) for groups in seen) == len(set.union(*seen))


@pytest.mark.parametrize(
    ("rule", "devices", "words"),
    [
        ("iid", 100, "cannot give 100 devices 64 each"),
        ("dirichlet:0", 3, "positive number"),
        ("dirichlet:x", 3, "positive number"),
        ("by:planet", 3, "has: subject"),
        ("by:subject", 8, "at most 7 devices"),
        ("shards", 3, "unknown"),
    ],
)
def test_an_impossible_partition_says_what_to_change(rule: str, devices: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        partition(rule, LABELS, dict(GROUPS), devices, seed=0)


def test_pair_noise_moves_labels_to_the_next_class_at_its_rate() -> None:
    spoiled = spoil(LABELS, Noise("pair", 0.4, (1,)), 10, Draws(0, "noise", 1))
    changed = spoiled != LABELS
    assert changed.mean() == pytest.approx(0.4, abs=0.03)
    assert np.array_equal(spoiled[changed], (LABELS[changed] + 1) % 10)


def test_symmetric_noise_reaches_every_other_class_alike() -> None:
    labels = np.zeros(9000, dtype=np.uint8)
    spoiled = spoil(labels, Noise("symmetric", 1.0, (1,)), 10, Draws(0, "noise", 1))
    assert spoiled.dtype == np.uint8
    assert np.bincount(spoiled, minlength=10)[0] == 0
    assert np.bincount(spoiled, minlength=10)[1:] == pytest.approx(np.full(9, 1000), rel=0.15)


@pytest.mark.parametrize("text", ["pair@2", "pair:0.4", "pair:1.5@1", "gaussian:0.4@1", "pair:0.4@9", "pair:x@1"])
def test_noise_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="noise"):
        parse_noise(text, 5)


def test_noise_is_read() -> None:
    assert parse_noise("pair:0.4@2,3", 5) == Noise("pair", 0.4, (2, 3))
    assert parse_noise("none", 5) is None
