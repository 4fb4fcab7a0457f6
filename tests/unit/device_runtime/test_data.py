"""Local data in each of its three forms, and a sentence for everything that can be wrong with it."""

import sys

import numpy as np
import pytest

from device_runtime.data import LocalData, Samples, batches, checked, load_local_data, prepare
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec

X = np.arange(12, dtype=np.uint8).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module of the user's own on the path."""
    (tmp_path / "my_own_data.py").write_text(
        "import numpy as np\n"
        "def load(): return np.zeros((3, 2)), [0, 1, 0]\n"
        "def one(): return np.zeros((3, 2))\n"
        "def text(): return np.array([['a']]), [0]\n"
        "constant = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_own_data", None)


def test_an_npz_file_is_read(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    data = load_local_data(str(tmp_path / "d.npz"))
    assert np.array_equal(data.x, X)
    assert np.array_equal(data.y, Y)
    assert len(data) == 6


def test_arrays_of_other_names_are_read(tmp_path):
    np.savez(tmp_path / "d.npz", images=X, labels=Y)
    assert len(load_local_data(str(tmp_path / "d.npz"), "images", "labels")) == 6


def test_a_folder_of_npy_files_is_read(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "notes.txt").write_text("ignored")
    assert np.array_equal(load_local_data(str(tmp_path)).y, Y)


@pytest.mark.usefixtures("user_module")
def test_a_callable_of_the_users_is_called():
    data = load_local_data("my_own_data:load")
    assert data.x.shape == (3, 2)
    assert data.y.tolist() == [0, 1, 0]


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data.csv", "neither an .npz file, a folder of .npy files, nor a module:callable"),
        ("no_such_module_at_all:load", "No module named 'no_such_module_at_all'"),
        ("my_own_data:absent", "no attribute 'absent'"),
        ("my_own_data:constant", "'constant' is not callable"),
        (":load", "Empty module name"),
        ("my_own_data:one", "must return a pair"),
        ("my_own_data:text", "both must be numbers"),
    ],
)
def test_a_bad_source_is_named_with_what_is_wrong(source, says):
    with pytest.raises(UsageError, match=says) as error:
        load_local_data(source)
    assert source in str(error.value)


def truncated(path):
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])


def rotten(path):
    np.savez_compressed(path, x=np.arange(5000), y=Y)
    data = bytearray(path.read_bytes())
    data[200:240] = bytes(40)
    path.write_bytes(data)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, X)


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "pickled": lambda path: np.savez(path, x=np.array([{}], dtype=object), y=Y),
    "truncated": truncated,
    "rotten": rotten,
    "one array": single_array,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_npz_file_is_named(tmp_path, kind):
    path = tmp_path / "d.npz"
    BROKEN[kind](path)
    with pytest.raises(UsageError, match=r"d\.npz"):
        load_local_data(str(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_a_broken_npy_file_is_named(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.npy"):
        load_local_data(str(tmp_path))


def test_an_archive_in_the_place_of_an_array_is_named(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, x=X)
    with pytest.raises(UsageError, match=r"x\.npy"):
        load_local_data(str(tmp_path))


def test_a_missing_file_or_array_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_local_data(str(tmp_path / "missing.npz"))
    np.savez(tmp_path / "d.npz", x=X, label=Y)
    with pytest.raises(UsageError, match="no array 'y'; it has: x, label"):
        load_local_data(str(tmp_path / "d.npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no array 'x'; it has: nothing"):
        load_local_data(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X, Y[:5], "same number of samples"),
        (X[:0], Y[:0], "at least one"),
        (X[:, 0], Y, "same number"),
        (X.astype(str), Y, "both must be numbers"),
        (X, Y.astype(complex), "both must be numbers"),
        (np.full((6, 2), np.nan), Y, "x has values that are not finite"),
        (X, np.full(6, np.inf), "y has values that are not finite"),
    ],
)
def test_arrays_that_cannot_belong_together_are_refused(x, y, says):
    with pytest.raises(UsageError, match=says):
        checked(x, y, "somewhere")


SPEC = InputSpec(shape=(2,), scale=0.5)


def test_data_becomes_model_input():
    samples = prepare(LocalData(X, Y.reshape(6, 1), "s"), SPEC, "cross_entropy", 3)
    assert np.array_equal(samples.x, X * np.float32(0.5))
    assert (samples.y.dtype, samples.y.tolist()) == (np.int64, Y.tolist())
    assert prepare(LocalData(X, Y, "s"), SPEC, "mse", 1).y.shape == (6, 1)


@pytest.mark.parametrize("labels", [Y - 1, Y + 1, np.repeat(Y, 2), Y + 0.5, np.eye(6)])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(UsageError, match=r"one class number in \[0, 3\) per sample"):
        prepare(LocalData(X, labels, "s"), SPEC, "cross_entropy", 3)


def test_samples_that_do_not_fit_the_model_are_refused():
    with pytest.raises(UsageError, match=r"samples of shape \(2,\) do not fit the model's input \(3,\)"):
        prepare(LocalData(X, Y, "s"), InputSpec(shape=(3,)), "cross_entropy", 3)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 1000])
def test_an_epoch_has_every_sample_once_with_its_label(size):
    samples = Samples(X.astype(np.float32), Y)
    seen = list(batches(samples, size, Draws(1, "batches")))
    assert sorted(x for batch in seen for x in batch.x[:, 0]) == X[:, 0].tolist()
    assert all(Y[int(x) // 2] == y for batch in seen for x, y in zip(batch.x[:, 0], batch.y, strict=True))
    assert [len(batch) for batch in seen[:-1]] == [size] * (len(seen) - 1)
    assert 1 <= len(seen[-1]) <= size


def test_the_order_of_an_epoch_is_that_of_its_draws():
    samples = Samples(np.arange(50, dtype=np.float32).reshape(50, 1), np.arange(50))
    orders = [
        [y for batch in batches(samples, 7, Draws(1, "batches", epoch)) for y in batch.y.tolist()]
        for epoch in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
