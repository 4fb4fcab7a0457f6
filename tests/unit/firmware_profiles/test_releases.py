"""Releases: a switch is whole or not at all, an unconfirmed one goes back by itself, and a real one builds offline."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from firmware_profiles import releases
from firmware_profiles.releases import ReleaseError, confirm, current, rollback, starting, switch


def given(root: Path, *versions: str) -> Path:
    """Complete releases, the first of them current and confirmed."""
    for index, version in enumerate(versions):
        folder = root / "releases" / version
        folder.mkdir(parents=True)
        (folder / "complete").write_text("")
        os.utime(folder, (index, index))
    (root / "current").symlink_to(f"releases/{versions[0]}")
    return root


def test_a_confirmed_release_stays(tmp_path: Path) -> None:
    given(tmp_path, "1.0", "1.1")
    switch(tmp_path, "1.1")
    assert "start 1 of 8" in starting(tmp_path)
    assert confirm(tmp_path) == "1.1 is confirmed"
    for _ in range(20):
        assert starting(tmp_path) == "1.1 is confirmed"
    assert rollback(tmp_path).startswith("1.1 stays")


def test_a_release_that_never_reaches_its_broker_is_left_after_eight_starts(tmp_path: Path) -> None:
    given(tmp_path, "1.0", "1.1")
    switch(tmp_path, "1.1")
    for _ in range(releases.STARTS_MAX):
        starting(tmp_path)
        assert current(tmp_path) == "1.1"
    assert starting(tmp_path) == "went back to 1.0"
    assert current(tmp_path) == "1.0"
    assert starting(tmp_path) == "1.0 is confirmed"


def test_two_updates_in_a_row_go_back_to_the_one_that_was_well(tmp_path: Path) -> None:
    given(tmp_path, "1.0", "1.1", "1.2")
    switch(tmp_path, "1.1")
    switch(tmp_path, "1.2")
    assert rollback(tmp_path) == "went back to 1.0"


def test_the_first_release_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    (tmp_path / "releases/1.0").mkdir(parents=True)
    (tmp_path / "releases/1.0/complete").write_text("")
    switch(tmp_path, "1.0")
    assert rollback(tmp_path).startswith("1.0 stays")
    assert current(tmp_path) == "1.0"


def test_two_releases_are_kept_and_never_the_current_one_or_the_way_back_deleted(tmp_path: Path) -> None:
    given(tmp_path, "1.0", "0.8", "0.9", "1.1")
    switch(tmp_path, "1.1")
    assert {p.name for p in (tmp_path / "releases").iterdir()} == {"1.0", "1.1"}


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_power_cut_at_any_step_leaves_a_complete_release_and_a_way_back(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, function)
    for survived in range(6):
        root = given(tmp_path / str(survived), "1.0", "1.1")
        left = [survived]

        def cut(*arguments: object, left: list[int] = left) -> object:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*arguments)

        monkeypatch.setattr(os, function, cut)
        with contextlib.suppress(KeyboardInterrupt):
            switch(root, "1.1")
        monkeypatch.setattr(os, function, real)
        assert current(root) in ("1.0", "1.1")
        assert (root / "current" / "complete").is_file()
        for _ in range(releases.STARTS_MAX + 1):
            starting(root)
        assert current(root) == "1.0", "whatever was cut, an unconfirmed release is left"


def test_a_damaged_record_is_taken_as_none(tmp_path: Path) -> None:
    given(tmp_path, "1.0")
    for text in ("", "{", "[]", '{"version": "1.0"}x', "7"):
        (tmp_path / "pending.json").write_text(text)
        assert starting(tmp_path) == "1.0 is confirmed"


def test_a_version_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="not a name for a folder"):
        releases.install(tmp_path, "../1.0", tmp_path, tmp_path / "lock")


def wheel(folder: Path, name: str) -> str:
    """A wheel of one module; returns its lock line."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "x = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b'=').decode()},{len(t)}\n"
        for n, t in files.items()
    )
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(file, text)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_a_release_is_built_offline_from_locked_wheels_and_a_changed_wheel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(releases, "SELF_TEST", ("-I", "-c", "import tiny_part; assert tiny_part.x == 1"))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    lock = tmp_path / "lock.txt"
    lock.write_text(wheel(wheels, "tiny_part"))
    root = given(tmp_path / "opt", "0.9")
    arguments = ["--root", str(root), "install", "1.0", "--wheels", str(wheels), "--lock", str(lock)]
    assert releases.main(arguments) == 0, capsys.readouterr().err
    assert current(root) == "1.0"
    assert json.loads((root / "pending.json").read_text())["before"] == "0.9"

    shutil.rmtree(root / "releases/1.0")
    rollback(root)
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0")[:-2] + "\n")
    assert releases.main(arguments) == 1
    assert "the wheels cannot be installed" in capsys.readouterr().err
    assert current(root) == "0.9"


REPORT = '{"findings": [{"status": "ok", "found": "a"}, {"status": "failed", "found": "it dies", "remedy": "r"}]}'


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo ImportError: no module >&2", "ImportError: no module"),
        (f"echo '{REPORT}'", "it dies"),
        ("true", "exit status 1"),
    ],
)
def test_a_release_that_fails_its_self_test_is_not_switched_to(
    says: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = given(tmp_path, "1.0", "1.1")
    (root / "releases/1.1/venv/bin").mkdir(parents=True)
    python = root / "releases/1.1/venv/bin/python"
    python.write_text(f"#!/bin/sh\n{says}\nexit 1\n")
    python.chmod(0o755)
    assert releases.main(["--root", str(root), "install", "1.1", "--wheels", "w", "--lock", "l"]) == 1
    assert f"release 1.1 fails its self-test: {told}\n" in capsys.readouterr().err
    assert current(root) == "1.0"


def test_the_self_test_is_a_command_of_the_release_that_passes_here() -> None:
    command = [sys.executable, *releases.SELF_TEST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {f["check"]: f["status"] for f in json.loads(done.stdout)["findings"]}
    assert found == {"imports": "ok", "engine": "ok"}


def test_nothing_of_the_runtime_is_named_but_its_command() -> None:
    text = Path(releases.__file__).read_text()
    assert "device_runtime." not in text
    assert "import device_runtime" not in text
