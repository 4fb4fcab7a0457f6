"""Releases of the runtime on a board: each in a folder of its own, switched by one rename, gone back from by itself.

    /opt/espalier/releases/<version>/venv    built in place (a venv cannot be moved); `complete` is written last
    /opt/espalier/current                    a link to the release that runs
    /opt/espalier/pending.json               present while that release has not been confirmed

Runs with the system's own Python and its standard library only, so that a broken release cannot break the way back.
`install` builds, tests and switches; the service calls `starting` before and `confirm` after a start: a release that is
not confirmed in eight starts is left for the one before. Every step is durable before the next one begins.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path("/opt/espalier")
STARTS_MAX = 8
KEEP = 2
BUILD_TIMEOUT_S = 1800
TEST_TIMEOUT_S = 180
# The release's own command line, given to its Python: `espalier device doctor`.
SELF_TEST = ("-I", "-m", "device_runtime", "device", "doctor", "--json", "--only", "imports", "--only", "engine")


class ReleaseError(Exception):
    """A release cannot be built, tested or switched to; the text is one sentence for a person."""


def install(root: Path, version: str, wheels: Path, lock: Path) -> str:
    """Build `version` from hash-locked wheels, test it, switch to it; returns what was done.

    Raises ReleaseError; `current` is then what it was.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,62}", version):
        raise ReleaseError(f"version {version!r} is not a name for a folder; use letters, digits, '.', '+' and '-'.")
    if current(root) == version:
        return f"{version} is current already"
    folder = root / "releases" / version
    os.umask(0o022)  # the service's user reads what root installs
    if not (folder / "complete").is_file():
        build(folder, wheels, lock)
    self_test(folder)
    switch(root, version)
    return f"{version} is current; it is confirmed when the service has reached its broker"


def build(folder: Path, wheels: Path, lock: Path) -> None:
    """A venv in `folder` with what `lock` names, from `wheels` only. What an interrupted build left is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    venv = folder / "venv"
    _run([sys.executable, "-m", "venv", str(venv)], BUILD_TIMEOUT_S, "the venv cannot be made")
    offline = ["--no-index", "--no-cache-dir", "--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
    pip = [str(venv / "bin/python"), "-m", "pip", "install", *offline, "--find-links", str(wheels)]
    _run([*pip, "--requirement", str(lock)], BUILD_TIMEOUT_S, "the wheels cannot be installed")
    os.sync()
    _write(folder / "complete", "")


def self_test(folder: Path) -> None:
    """The release imports and computes. Raises ReleaseError."""
    what = f"release {folder.name} fails its self-test"
    done = _done([str(folder / "venv/bin/python"), *SELF_TEST], TEST_TIMEOUT_S, what)
    if done.returncode:
        raise ReleaseError(f"{what}: {_failed(done.stdout) or _last_line(done)}")


def _failed(report: str) -> str:
    """What the doctor's report says has failed, "" where there is no report."""
    try:
        return "; ".join(f["found"] for f in json.loads(report)["findings"] if f["status"] == "failed")
    except (ValueError, KeyError, TypeError):
        return ""


def switch(root: Path, version: str) -> None:
    """Make `version` current, unconfirmed. After any power cut `current` is the old release or the new one."""
    before = current(root)
    if before == version:
        return
    if unconfirmed := _pending(root):
        before = unconfirmed["before"]  # the way back leads to a release that was well
    _write(root / "pending.json", json.dumps({"version": version, "before": before, "starts": 0}))
    _link(root, version)
    _prune(root)


def starting(root: Path) -> str:
    """Count a start of an unconfirmed release; go back when it had its chances."""
    pending = _pending(root)
    if pending is None:
        return f"{current(root)} is confirmed"
    version, starts = pending["version"], int(pending["starts"]) + 1
    if starts > STARTS_MAX:
        return rollback(root)
    _write(root / "pending.json", json.dumps({**pending, "starts": starts}))
    return f"{version}: start {starts} of {STARTS_MAX} before it is confirmed"


def confirm(root: Path) -> str:
    """The release that runs is well: it has reached its broker."""
    (root / "pending.json").unlink(missing_ok=True)
    _sync(root)
    return f"{current(root)} is confirmed"


def rollback(root: Path) -> str:
    """Back to the release before, if the present one is unconfirmed and there is one."""
    pending = _pending(root)
    before = pending["before"] if pending else None
    if not before or not (root / "releases" / before / "complete").is_file():
        return f"{current(root)} stays: there is no release before it to go back to"
    _link(root, before)
    confirm(root)
    return f"went back to {before}"


def current(root: Path) -> str | None:
    """The version that `current` names, None when there is none."""
    try:
        return Path(os.readlink(root / "current")).name
    except OSError:
        return None


def _pending(root: Path) -> dict[str, str] | None:
    """What waits for confirmation. None as well when the record is of another release: a cut came before the link."""
    try:
        record: dict[str, str] = json.loads((root / "pending.json").read_text())
        return record if record["version"] == current(root) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link(root: Path, version: str) -> None:
    fresh = root / "current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("releases") / version)
    os.replace(fresh, root / "current")
    _sync(root)


def _prune(root: Path) -> None:
    """Keep the newest releases, and whatever is current or would be gone back to."""
    pending = _pending(root)
    wanted = {current(root), pending["before"] if pending else None}
    folders = sorted((root / "releases").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in [f for f in folders if f.name not in wanted][max(KEEP - len(wanted - {None}), 0) :]:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """A file that is whole or absent after a power cut."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _run(command: list[str], timeout_s: int, what: str) -> None:
    """A command that must end well."""
    done = _done(command, timeout_s, what)
    if done.returncode:
        raise ReleaseError(f"{what}: {_last_line(done)}")


def _done(command: list[str], timeout_s: int, what: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{what}: {error}.") from error


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(description="Releases of the Espalier runtime on this board.")
    parser.add_argument("--root", type=Path, default=ROOT)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("install", help="build, test and switch to a release")
    new.add_argument("version")
    new.add_argument("--wheels", type=Path, required=True, help="folder with the wheels")
    new.add_argument("--lock", type=Path, required=True, help="requirements with hashes")
    for name, does in {"starting": starting, "confirm": confirm, "rollback": rollback}.items():
        commands.add_parser(name, help=(does.__doc__ or "").splitlines()[0])
    given = parser.parse_args(arguments)
    try:
        if given.command == "install":
            said = install(given.root, given.version, given.wheels, given.lock)
        else:
            said = {"starting": starting, "confirm": confirm, "rollback": rollback}[given.command](given.root)
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"espalier: {error}\n")
        return 1
    sys.stdout.write(f"espalier: {said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
