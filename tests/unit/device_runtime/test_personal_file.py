"""Personal tensors on disk: the same work begins from the same values after any kill; damage says what to do."""

import numpy as np
import pytest
import safetensors.numpy

from device_runtime import personal_file
from device_runtime.personal import Personal
from device_runtime.personal_file import BEFORE_FILE, PERSONAL_FILE, PersonalFiles
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError
from tests import fakes

NAMES = ("fc.bias",)


def personal(*values):
    return Personal(NAMES, {"fc.bias": np.array(values, dtype=np.float32)})


def begun(files, round_index, attempt=0):
    """What an assignment begins from: a list, [] where the received values are to be taken."""
    found = files.begin(fakes.assignment(round_index=round_index, attempt=attempt), fakes.manifest())
    assert found.names == NAMES
    return found.values["fc.bias"].tolist() if found.values else []


def keep(files, round_index, before, after):
    files.keep(fakes.assignment(round_index=round_index), personal(*before), personal(*after))


@pytest.fixture
def files(tmp_path):
    return PersonalFiles(tmp_path, NAMES)


def test_rounds_go_on_from_one_another(files, tmp_path):
    assert begun(files, 1) == []
    keep(files, 1, [0, 0], [1, 2])
    assert begun(files, 2) == [1, 2]
    keep(files, 2, [1, 2], [3, 4])
    assert begun(PersonalFiles(tmp_path, NAMES), 3) == [3, 4]


def test_the_same_work_begins_from_the_same_values_again(files):
    keep(files, 1, [0, 0], [1, 2])
    assert begun(files, 1) == [0, 0], "not from what it has advanced to"
    assert begun(files, 1, attempt=1) == [0, 0], "a rejected update's round is trained anew"
    keep(files, 2, [1, 2], [3, 4])
    assert begun(files, 2) == [1, 2]


@pytest.mark.parametrize("writes_done", [0, 1, 2])
def test_a_kill_between_any_two_writes_changes_nothing(files, tmp_path, monkeypatch, writes_done):
    keep(files, 1, [0, 0], [1, 2])
    left = [writes_done]

    def write(path, data):
        if left[0] == 0:
            raise InterruptedError
        left[0] -= 1
        write_atomic(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(personal_file, "write_atomic", write)
        try:
            keep(files, 2, [1, 2], [3, 4])
        except InterruptedError:
            assert writes_done < 2
    again = PersonalFiles(tmp_path, NAMES)
    assert begun(again, 2) == [1, 2]
    keep(again, 2, [1, 2], [3, 4])
    assert begun(again, 3) == [3, 4]


def test_the_file_is_plain_safetensors_and_equal_values_are_equal_bytes(files, tmp_path):
    keep(files, 1, [0, 0], [1, 2])
    data = (tmp_path / PERSONAL_FILE).read_bytes()
    stored = safetensors.numpy.load(data)
    assert {n: (v.dtype, v.tolist()) for n, v in stored.items()} == {"fc.bias": (np.dtype(np.float32), [1, 2])}
    keep(files, 1, [0, 0], [1, 2])
    assert (tmp_path / PERSONAL_FILE).read_bytes() == data


def test_nothing_personal_touches_no_disk(tmp_path):
    files = PersonalFiles(tmp_path / "none", ())
    files.check()
    found = files.begin(fakes.assignment(), fakes.manifest())
    assert found.names == ()
    files.keep(fakes.assignment(), found, found)
    assert not (tmp_path / "none").exists()


def test_a_file_that_a_person_made_is_taken(files, tmp_path):
    write_atomic(tmp_path / PERSONAL_FILE, safetensors.numpy.save({"fc.bias": np.array([5, 6], dtype=np.float32)}))
    assert begun(files, 1) == [5, 6]


def test_a_tensor_that_became_personal_later_begins_with_the_received_values(tmp_path):
    keep(PersonalFiles(tmp_path, NAMES), 1, [0, 0], [1, 2])
    both = PersonalFiles(tmp_path, ("fc.bias",))
    assert begun(both, 2) == [1, 2]
    other = PersonalFiles(tmp_path, ("fc.weight",)).begin(fakes.assignment(round_index=2), fakes.manifest())
    assert (other.names, dict(other.values)) == (("fc.weight",), {})


def _truncate(data):
    return data[:-1]


def _flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def _saved(values):
    return lambda _: safetensors.numpy.save(values)


DAMAGES = {
    "truncated": (_truncate, "deserializing"),
    "empty": (lambda _: b"", "deserializing|mmap|empty"),
    "other bytes": (lambda _: b"\xff" * 64, "deserializing"),
    "one bit": (_flip, "its values are not those that were written"),
    "not finite": (_saved({"fc.bias": np.array([np.nan, 0], dtype=np.float32)}), "not finite"),
    "another type": (_saved({"fc.bias": np.zeros(2, dtype=np.float16)}), "float16, not float32"),
    "metadata": (
        lambda _: safetensors.numpy.save({"fc.bias": np.zeros(2, dtype=np.float32)}, {"espalier": "[]"}),
        "metadata are not ours",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize(
    ("name", "mend"), [(PERSONAL_FILE, "move it away to begin anew"), (BEFORE_FILE, "delete it, and training goes on")]
)
def test_a_damaged_file_says_what_is_wrong_and_what_to_do(files, tmp_path, damage, says, name, mend):
    keep(files, 1, [0, 0], [1, 2])
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    for attempt in (files.check, lambda: begun(files, 2)):
        with pytest.raises(UsageError, match=f"{name} is damaged.*({says}).*{mend}"):
            attempt()
    path.unlink()
    assert begun(files, 2) == ([1, 2] if name == BEFORE_FILE else [])


def test_another_models_tensors_are_refused(files, tmp_path):
    write_atomic(tmp_path / PERSONAL_FILE, safetensors.numpy.save({"fc.bias": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(UsageError, match=r"holds 'fc.bias' of the shape \(3,\), the model has \(2,\).*move it away"):
        begun(files, 1)


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    files = PersonalFiles(tmp_path / "file", NAMES)
    with pytest.raises(UsageError, match=r"cannot (be read|write)|damaged"):
        keep(files, 1, [0, 0], [1, 2])


def test_offers_of_an_earlier_life_fit_when_they_keep_back_all_that_is_personal_now(tmp_path):
    named = PersonalFiles(tmp_path, ("a", "b"))
    assert named.fits(("a", "b", "c"), ("a", "b", "c"))
    assert named.fits(("a", "b"), "last")
    assert not named.fits(("a",), ("a",))
    assert not named.fits((), ())
    last = PersonalFiles(tmp_path, "last")
    assert last.fits(("a",), "last")
    assert not last.fits(("a",), ("a",)), "whether that is the last layer is not known here"
    assert not last.fits((), ())
    assert PersonalFiles(tmp_path, ()).fits((), ())
