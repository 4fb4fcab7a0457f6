"""Where the training wheel is missing, the error names the remedy; where it chatters, only the chatter is dropped."""

import importlib
import os
import sys
import types

import pytest

from device_runtime.wire.errors import EngineError
from export.artifacts.onnxruntime_training import artifact_generator, without_chatter


def test_no_runtime_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"onnxruntime is not installed: .*onnxruntime-training-cpu==1\.19\.2"):
        artifact_generator()


def test_the_stock_runtime_is_told_from_the_training_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", types.ModuleType)
    with pytest.raises(EngineError, match="has no training operators: uninstall onnxruntime, which owns the same"):
        artifact_generator()


def test_a_blocked_import_is_unblocked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime.training"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def broken(name: str) -> types.ModuleType:
        assert sys.modules["onnxruntime.training"] is None
        raise ImportError("no shared object")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EngineError, match=r"onnxruntime is broken \(no shared object\)"):
        artifact_generator()
    assert "onnxruntime.training" not in sys.modules


def test_only_chatter_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with without_chatter():
        os.write(2, b"2026-11-20 [I:onnxruntime:Default, x.cc:15 Apply] modified: 0\n")
        os.write(2, b"2026-11-20 [W:onnxruntime:Default, x.cc:15 Apply] careful\n")
    os.write(2, b"after\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["2026-11-20 [W:onnxruntime:Default, x.cc:15 Apply] careful", "after"]


def test_stderr_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), without_chatter():
        raise ZeroDivisionError
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"
