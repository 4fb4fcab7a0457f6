"""A TOML file that we write says, read back, what it was given: quotes, line ends, control characters, any plane."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.settings import ModelSection, RunSection, Settings, load_settings
from device_runtime.config import DataSettings, DeviceSettings, load_device_settings
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.settings import LinkSettings, parse_settings
from device_runtime.wire.toml import read_toml, to_toml
from firmware_profiles.catalogue import load_board
from firmware_profiles.flash.device import Device, device_settings
from tests.fakes import QUICK

# All that a string of TOML may mean: every character but a surrogate. What has tripped writers comes often.
ODD = st.sampled_from("\"'\\\n\r\t\b\x00\x1b\x7f\x85\u2028\ufeff\uffff📷🍕=#[]{}.")
HOSTILE = st.text(st.one_of(ODD, st.characters(exclude_categories=["Cs"])), max_size=20)
EXAMPLES = ("/srv/📷", 'a "quoted" \\path', "two\nlines\r\n", "'''", '"""', "\x00\x7f", "# no comment", "\ufeffx")


def read(data: bytes, folder: Path) -> DeviceSettings:
    path = folder / "device.toml"
    path.write_bytes(data)
    return load_device_settings(path)


@QUICK
@given(st.dictionaries(HOSTILE, st.one_of(HOSTILE, st.lists(HOSTILE, max_size=3), st.dictionaries(HOSTILE, HOSTILE))))
@example({text: {text: text, "list": [text]} for text in EXAMPLES})
def test_tables_come_back_equal(tables: dict[str, object]) -> None:
    assert read_toml(to_toml(tables).decode(), "x.toml") == tables


@QUICK
@given(HOSTILE, HOSTILE)
@example(*EXAMPLES[:2])
@example(*EXAMPLES[2:4])
@example(*EXAMPLES[4:6])
@example(*EXAMPLES[6:8])
def test_what_flash_writes_is_what_the_device_reads(
    tmp_path_factory: pytest.TempPathFactory, data: str, username: str
) -> None:
    device = Device(board=load_board("rpi5"), name="bench", host="g", port=1883, data=data, username=username)
    found = read(device_settings(device), tmp_path_factory.getbasetemp())
    assert (found.data.source, found.link.username) == (data, username)


@QUICK
@given(HOSTILE, st.lists(HOSTILE, min_size=1, unique=True))
def test_what_the_demo_writes_for_a_device_is_what_it_reads(
    tmp_path_factory: pytest.TempPathFactory, text: str, names: list[str]
) -> None:
    link = LinkSettings(username=text, password_file=text, ca=text, allow_unsigned=True)
    given_ = DeviceSettings(
        name="bench", folder=text, data=DataSettings(source=text, x=text), link=link, personal=tuple(names)
    )
    data = to_toml(msgspec.to_builtins(given_))
    assert parse_settings(data.decode(), DeviceSettings, "device.toml") == given_


@QUICK
@given(HOSTILE.filter(bool), HOSTILE)
def test_what_the_demo_writes_for_the_aggregator_is_what_it_reads(folder: str, text: str) -> None:
    given_ = Settings(
        run=RunSection(folder=folder, held_out=text, calibration=text),
        input=InputSpec(shape=(1, 8, 8)),
        model=ModelSection(onnx=text),
        link=LinkSettings(allow_unsigned=True),
    )
    data = to_toml(msgspec.to_builtins(given_))
    assert load_settings(Path("aggregator.toml"), data.decode()) == given_


def test_a_name_that_is_no_text_is_refused_by_what_it_is() -> None:
    """What a file's name of other bytes than UTF-8 is, once it has come in as an argument."""
    name = b"/srv/\xff.npz".decode("utf-8", "surrogateescape")
    with pytest.raises(
        UsageError, match=r'source = "/srv/\\udcff\.npz"\' cannot stand in a settings file: it is not UTF-8'
    ):
        to_toml({"data": {"source": name}})
