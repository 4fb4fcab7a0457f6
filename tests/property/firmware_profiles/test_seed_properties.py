"""What first boot reads is JSON and YAML at once: read back equal, and nothing that a YAML reader stumbles over."""

import importlib
import json
import re
from importlib.util import find_spec

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firmware_profiles.flash.seeds import to_json
from tests.fakes import QUICK

ODD = st.sampled_from("\"'\\\n\r\t\x00\x7f\x85\u2028\ufeff\uffff📷🍕")
TEXT = st.text(st.one_of(ODD, st.characters(exclude_categories=["Cs"])))


@QUICK
@given(st.dictionaries(TEXT, st.one_of(TEXT, st.lists(TEXT))))
@example({"🍕 pizza": "Ann\x85\u2028🍕", "\\ud83c": ["\\", "\x7f"]})
def test_yaml_needs_no_pair_of_surrogates_and_meets_no_character_that_ends_its_line(value: object) -> None:
    text = to_json(value).decode()
    assert json.loads(text) == value
    assert not re.search(r"[^\n\x20-\x7e\U00010000-\U0010ffff]", text)
    # A backslash that is itself escaped begins no escape.
    escapes = re.findall(r"\\(u[0-9a-f]{4}|.)", text)
    assert not [e for e in escapes if re.fullmatch(r"ud[89a-f]..", e)]


@pytest.mark.skipif(find_spec("yaml") is None, reason="PyYAML, with which cloud-init reads, is not installed")
@QUICK
@given(TEXT)
@example("🍕\x85\u2028\ufeff")
def test_a_yaml_reader_reads_it_too(text: str) -> None:
    yaml = importlib.import_module("yaml")
    assert yaml.safe_load(to_json({"a": text}).decode()) == {"a": text}
