"""Which engine is opened: the best that is installed, and a sentence where there is none."""

import pytest

from device_runtime.engines import available_engines, onnxruntime_import, open_engine
from device_runtime.wire.errors import EngineError


def test_auto_opens_the_best_that_is_installed() -> None:
    if not available_engines():
        pytest.skip("no engine is installed")
    engine = open_engine("auto")
    assert engine.name == available_engines()[0]
    assert engine.version[0].isdigit()


def test_each_available_engine_opens_by_name() -> None:
    assert [open_engine(name).name for name in available_engines()] == list(available_engines())


def test_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EngineError, match="there is no engine 'warp'; engines are: auto, ort_training"):
        open_engine("warp")


@pytest.mark.parametrize("name", ["auto", "ort_training"])
def test_missing_runtime_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_import, "_installed", lambda _: False)
    assert available_engines() == ()
    with pytest.raises(EngineError, match="not installed in this environment"):
        open_engine(name)


def test_two_wheels_that_overwrite_one_another_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_import, "_installed", lambda _: True)
    with pytest.raises(EngineError, match="uninstall both"):
        onnxruntime_import.import_onnxruntime()
