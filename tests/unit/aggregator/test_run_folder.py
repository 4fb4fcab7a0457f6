"""A run is resumed with the settings it was begun with, or not at all."""

import msgspec
import pytest

from aggregator.core.pruning import Pruning
from aggregator.core.rating import Capability
from aggregator.core.weighting import Cgsv
from aggregator.ledger import Ledger
from aggregator.run_folder import new_run_id, read_result, remember_settings, versions
from aggregator.settings import (
    RoundsSection,
    RunSection,
    Settings,
    TrainingSection,
    decode_settings,
)
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.settings import LinkSettings

replace = msgspec.structs.replace
SETTINGS = Settings(run=RunSection(folder="RUN", seed=3), input=InputSpec(shape=(1, 8, 8), axes=(0, 1, 2)))


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_settings_are_written_beside_the_ledger(ledger, tmp_path):
    remember_settings(ledger, tmp_path, SETTINGS)
    assert decode_settings((tmp_path / "settings.json").read_bytes()) == SETTINGS


def test_the_same_settings_resume_a_run(ledger, tmp_path):
    remember_settings(ledger, tmp_path, SETTINGS)
    ledger.open_round(1, 0, 500, ())
    remember_settings(ledger, tmp_path, SETTINGS)


def test_until_a_round_was_opened_every_setting_may_change(ledger, tmp_path):
    remember_settings(ledger, tmp_path, SETTINGS)
    changed = replace(SETTINGS, run=RunSection(folder="RUN", seed=4))
    remember_settings(ledger, tmp_path, changed)
    assert decode_settings(ledger.setting("settings")) == changed


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, rounds=RoundsSection(count=99, quorum=2, deadline_s=5.0)),
        replace(SETTINGS, link=LinkSettings(host="elsewhere", port=8883, ca="ca.pem")),
        replace(SETTINGS, run=RunSection(folder="MOVED", seed=3, held_out="moved.npz", leave_after_s=9.0)),
    ],
)
def test_how_long_and_over_what_a_run_goes_on_may_change(ledger, tmp_path, changed):
    remember_settings(ledger, tmp_path, SETTINGS)
    ledger.open_round(1, 0, 500, ())
    remember_settings(ledger, tmp_path, changed)
    assert decode_settings(ledger.setting("settings")) == changed
    assert decode_settings((tmp_path / "settings.json").read_bytes()) == changed


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(SETTINGS, run=RunSection(folder="RUN", seed=4)), "run.seed = 3, not 4"),
        (replace(SETTINGS, pruning=Pruning(sparsity=0.5)), "pruning.sparsity = 0.8, not 0.5"),
        (replace(SETTINGS, training=TrainingSection(batch_size=1)), "training.batch_size = 32, not 1"),
        (replace(SETTINGS, weighting=Cgsv(gamma0=0.1)), "weighting.gamma0 = 0.7, not 0.1"),
        (replace(SETTINGS, rates=Capability()), "rates.kind = 'fixed', not 'capability'"),
        (replace(SETTINGS, input=InputSpec(shape=(1, 9, 9))), r"input.axes = \[0, 1, 2\], not \[\]"),
    ],
)
def test_settings_that_decide_numbers_may_not_change(ledger, tmp_path, changed, says):
    remember_settings(ledger, tmp_path, SETTINGS)
    ledger.open_round(1, 0, 500, ())
    with pytest.raises(UsageError, match=says):
        remember_settings(ledger, tmp_path, changed)
    assert decode_settings(ledger.setting("settings")) == SETTINGS


def test_a_run_of_before_there_was_a_section_goes_on_with_its_defaults(ledger, tmp_path):
    remember_settings(ledger, tmp_path, SETTINGS)
    ledger.open_round(1, 0, 500, ())
    before = msgspec.json.decode(ledger.setting("settings"))
    del before["rates"]
    ledger.set_setting("settings", msgspec.json.encode(before).decode())
    remember_settings(ledger, tmp_path, SETTINGS)
    with pytest.raises(UsageError, match=r"rates\.kind = 'fixed', not 'capability'"):
        remember_settings(ledger, tmp_path, replace(SETTINGS, rates=Capability()))


def test_a_run_with_settings_of_another_version_is_refused_in_a_sentence(ledger, tmp_path):
    remember_settings(ledger, tmp_path, SETTINGS)
    ledger.open_round(1, 0, 500, ())
    ledger.set_setting("settings", '{"run": {"folder": "RUN"}, "surprise": 1}')
    with pytest.raises(UsageError, match="begun by another version"):
        remember_settings(ledger, tmp_path, SETTINGS)


def test_a_run_keeps_its_id(ledger, tmp_path):
    first = new_run_id(ledger)
    assert new_run_id(ledger) == new_run_id(Ledger(tmp_path / "ledger.sqlite")) == first
    assert new_run_id(Ledger(tmp_path / "other.sqlite")) != first


def test_a_folder_without_a_result_says_so(tmp_path):
    with pytest.raises(UsageError, match="is the run finished"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UsageError, match=r"result\.json.* is malformed"):
        read_result(tmp_path)


def test_versions_name_what_decides_numbers():
    assert {"espalier-fl", "python", "machine", "numpy", "msgspec"} <= versions().keys()
