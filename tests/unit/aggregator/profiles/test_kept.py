"""The profiles that a run keeps: whole, by device, found again; what is none costs a sentence."""

import msgspec
import pytest

from aggregator.profiles.kept import KeptProfiles, profile_facts, read_kept
from device_runtime.profile.record import encode_profile, read_profile
from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import DURATION_NS_MAX
from device_runtime.wire.support import sha256_hex
from tests.profiles import make_case, make_profile

DATA = encode_profile(make_profile(make_case(sparsity=0.5, ms=3.0)))


def loose(**changed: object) -> bytes:
    """The JSON of a profile with fields changed."""
    return msgspec.json.encode(msgspec.json.decode(DATA) | changed)


def test_a_kept_profile_is_a_file_for_the_report_and_is_found_again(tmp_path):
    facts = KeptProfiles(tmp_path).keep("pi-1", DATA)
    assert read_profile(tmp_path / "profiles" / "pi-1.json") == make_profile(make_case(sparsity=0.5, ms=3.0))
    assert KeptProfiles(tmp_path).facts == {"pi-1": facts}
    assert (facts.sha, facts.model, facts.verdict) == (sha256_hex(DATA), "lenet5", "valid")
    (case,) = facts.cases
    assert (case.engine, case.batch, case.sparsity, case.step_ns_p50, case.is_valid) == (
        "portable", 32, 0.5, 3_000_000, True,
    )  # fmt: skip


def test_a_later_profile_takes_the_place_of_an_earlier_one(tmp_path):
    kept = KeptProfiles(tmp_path)
    kept.keep("pi-1", DATA)
    kept.keep("pi-1", encode_profile(make_profile(network="other")))
    assert kept.facts["pi-1"].model == "other"
    assert read_kept(tmp_path) == kept.facts


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [((), "no case"), (("noisy", "noisy"), "noisy"), (("valid", "noisy", "valid"), "2 of 3 cases valid")],
)
def test_the_verdict_of_a_profile_is_that_of_its_cases(kinds, verdict):
    data = encode_profile(make_profile(*(make_case(kind=kind) for kind in kinds)))
    assert profile_facts(data, "it").verdict == verdict


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no json", b"\xff\xfe", b"[" * 100_000, b"{}",
        loose(version=2), loose(format="other"), loose(surprise=1), loose(cases=[{}]),
        DATA.replace(b'"value":38.0', b'"value":1' + b"0" * 400),
    ],
    ids=["empty", "text", "no utf-8", "deep", "no fields", "version", "format", "surplus", "bad case", "huge integer"],
)  # fmt: skip
def test_what_is_no_profile_is_a_sentence_and_leaves_what_was_kept(tmp_path, data):
    kept = KeptProfiles(tmp_path)
    before = kept.keep("pi-1", DATA)
    with pytest.raises(UsageError, match="it is no profile of version 1"):
        kept.keep("pi-1", data)
    assert kept.facts == {"pi-1": before}
    assert (tmp_path / "profiles" / "pi-1.json").read_bytes() == DATA


@pytest.mark.parametrize(
    "changed",
    [{"sparsity": 1.5}, {"sparsity": -0.1}, {"step_ns": 0}, {"step_ns": DURATION_NS_MAX + 1}, {"step_ns": 10**400}],
    ids=str,
)
def test_a_case_with_numbers_that_cannot_be_is_not_for_a_policy(changed):
    record = msgspec.json.decode(DATA)
    (case,) = record["cases"]
    case["sparsity"] = changed.get("sparsity", case["sparsity"])
    text = msgspec.json.encode(record).decode()
    ns = changed.get("step_ns", 3_000_000)
    text = text.replace('"p50":3000000', f'"p50":{ns}')
    (found,) = profile_facts(text.encode(), "it").cases
    assert not found.is_valid


@pytest.mark.parametrize("kind", ["noisy", "throttled", "under-voltage", "emulated"])
def test_only_a_valid_case_is_for_a_policy(kind):
    (found,) = profile_facts(encode_profile(make_profile(make_case(kind=kind))), "it").cases
    assert not found.is_valid


def test_foreign_files_in_the_folder_are_as_good_as_absent(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "pi-1.json").write_bytes(b"half a profi")
    (folder / "No Name.json").write_bytes(DATA)
    (folder / "pi-2.json").write_bytes(DATA)
    assert set(read_kept(tmp_path)) == {"pi-2"}
