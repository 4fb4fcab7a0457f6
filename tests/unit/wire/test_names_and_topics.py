"""One grammar of names, and topics that name their device."""

import pytest

from device_runtime.wire.errors import UsageError
from device_runtime.wire.names import check_name, is_name
from device_runtime.wire.topics import all_topic, device_of, down_topic, up_filter, up_topic


@pytest.mark.parametrize("name", ["a", "0", "pi-1", "a-", "a" * 63])
def test_a_name_is_accepted(name):
    assert is_name(name)
    assert check_name(name, "device") == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a/b", "a+b", "#", " a", "a ", "a\n", "ä", "a" * 64])
def test_what_is_no_name_is_refused_with_the_grammar(name):
    assert not is_name(name)
    with pytest.raises(UsageError, match=r"my device .* is not a valid name: use 1 to 63 of a-z, 0-9 and '-'"):
        check_name(name, "my device")


def test_topics_are_those_of_the_format():
    assert up_topic("lab", "pi-1") == "espalier/1/lab/d/pi-1/up"
    assert down_topic("lab", "pi-1") == "espalier/1/lab/d/pi-1/dn"
    assert all_topic("lab") == "espalier/1/lab/all"
    assert up_filter("lab") == "espalier/1/lab/d/+/up"


def test_an_up_topic_names_its_device():
    assert device_of(up_topic("lab", "pi-1")) == "pi-1"
