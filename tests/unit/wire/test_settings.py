"""A mistake in a settings file is one sentence that names the place and what would be right."""

import msgspec
import pytest

from device_runtime.config import DeviceSettings, load_device_settings
from device_runtime.wire.errors import UsageError
from device_runtime.wire.settings import LinkSettings, parse_settings

GOOD = 'name = "pi-1"\nfolder = "state"\n[data]\nsource = "x.npz"\n[link]\nport = 1884\nallow_unsigned = true\n'


def test_settings_are_read_with_their_defaults():
    settings = parse_settings(GOOD, DeviceSettings, "device.toml")
    assert settings.link == LinkSettings(port=1884, allow_unsigned=True)
    assert (settings.data.x, settings.threads) == ("x", 1)


def test_a_whole_number_serves_as_a_real_one():
    assert parse_settings("connect_timeout_s = 5", LinkSettings, "f").connect_timeout_s == 5.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('nme = "a"\n' + GOOD, "device.toml: unknown key 'nme' in the top level; did you mean 'name'."),
        (
            GOOD + 'personal = "last"\n',
            "unknown key 'personal' in [link]; it stands at the top, above the first [section].",
        ),
        (GOOD + 'hosst = "h"\n', "device.toml: unknown key 'hosst' in [link]; did you mean 'host'."),
        (GOOD.replace("source", "sorce"), "device.toml: unknown key 'sorce' in [data]; did you mean 'source'."),
        (
            "zzz = 1\n" + GOOD,
            "unknown key 'zzz' in the top level; known keys: name, folder, data, link, engine, threads",
        ),
        (GOOD.replace("1884", '"1884"'), "device.toml: [link.port] Expected `int`, got `str`."),
        (GOOD.replace("true", "1"), "device.toml: [link.allow_unsigned] Expected `bool`, got `int`."),
        (GOOD.replace('name = "pi-1"', ""), "device.toml: Object missing required field `name`."),
        (GOOD.replace('source = "x.npz"', ""), "device.toml: [data] Object missing required field `source`."),
        ("name = ", "device.toml is not valid TOML: "),
        ("name = 1\nname = 2", "device.toml is not valid TOML: "),
    ],
)
def test_a_mistake_is_named_with_its_place(text, says):
    with pytest.raises(UsageError) as error:
        parse_settings(text, DeviceSettings, "device.toml")
    assert says in str(error.value)


def test_a_mistake_inside_a_list_of_tables_is_named():
    class Item(msgspec.Struct, forbid_unknown_fields=True):
        name: str

    class Many(msgspec.Struct, forbid_unknown_fields=True):
        items: list[Item]

    with pytest.raises(UsageError, match="unknown key 'nam'"):
        parse_settings('[[items]]\nnam = "a"\n', Many, "f")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("pi-1", "Pi 1"), "name 'Pi 1' is not a valid name"),
        (GOOD + 'site = "a.b"\n', r"\[link\] site 'a.b' is not a valid name"),
        (GOOD.replace("[data]", "threads = -1\n[data]"), "threads is -1; use 0"),
    ],
)
def test_a_device_file_with_a_bad_value_is_refused(tmp_path, text, says):
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_device_settings(path)


def test_a_device_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.toml"):
        load_device_settings(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"binary\.toml"):
        load_device_settings(tmp_path / "binary.toml")
