"""An emulated board: aarch64 Python 3.13 under qemu-user, with the project's own wheel and its aarch64 dependencies."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
PACKAGES = ("device_runtime", "aggregator", "export", "firmware_profiles")
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")  # Raspberry Pi 3 and Zero 2, 4, 5
CANNOT = 3  # exit status of scripts/arm-root


class NoBoardError(Exception):
    """No aarch64 root can be made on this machine; the text says why."""


@dataclass(frozen=True)
class Board:
    """`python` is the emulated interpreter of scripts/arm-root, `path` what it imports from."""

    python: Path
    path: tuple[Path, ...]
    home: Path

    def command(self, cpu: str, *arguments: str | Path) -> list[str]:
        """The command line of Python with these arguments on a board with this CPU."""
        return [str(self.python), "-cpu", cpu, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this machine's environment but what numeric libraries need to keep to one thread."""
        path = os.pathsep.join(map(str, self.path))
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        system = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "COLUMNS": "120"}
        return {**system, **threads, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def run(self, cpu: str, *arguments: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        return subprocess.run(
            self.command(cpu, *arguments), env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def version_of(self, distribution: str) -> str:
        """The version installed on the board."""
        (metadata,) = (m for p in self.path for m in p.glob(f"{distribution.replace('-', '_')}-*.dist-info/METADATA"))
        return str(Parser().parsestr(metadata.read_text())["Version"])


def make_root() -> Path:
    """The folder of scripts/arm-root, made if it is not there yet. Raises NoBoardError where it cannot be made."""
    done = subprocess.run(
        [ROOT / "scripts" / "arm-root"], capture_output=True, text=True, timeout=240, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == CANNOT:
        raise NoBoardError(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def make_board(root: Path, wheel: Path, folder: Path, extra: str = "") -> Board:
    """A board with the wheel installed: its dependencies are kept beside the root, the wheel itself is not."""
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    key = hashlib.sha256(b"\n".join([_requirements(wheel), _installer().read_bytes(), extra.encode()])).hexdigest()
    dependencies = root / "sites" / f"{extra or 'device'}-{key[:16]}"
    if not dependencies.is_dir():
        _install_once(dependencies, wanted)
    own = folder / "site"
    install(own, wheel, "--no-deps")
    home = folder / "home"
    home.mkdir()
    return Board(root / "python", (own, dependencies), home)


def install(folder: Path, *requirements: str | Path) -> None:
    """Install into `folder` what a board would install."""
    done = subprocess.run(
        [sys.executable, _installer(), folder, *requirements], capture_output=True, text=True, timeout=240,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _install_once(folder: Path, wanted: str) -> None:
    """Everything that `wanted` brings but the project itself, in place whole or not at all."""
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as making:
        site = Path(making) / "site"
        install(site, wanted)
        for name in (*PACKAGES, *(p.name for p in site.glob("espalier_fl-*.dist-info"))):
            shutil.rmtree(site / name)
        if not folder.exists():
            site.rename(folder)


def _installer() -> Path:
    return ROOT / "scripts" / "pip_for_arm.py"


def _requirements(wheel: Path) -> bytes:
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return "\n".join(metadata.get_all("Requires-Dist") or ()).encode()
