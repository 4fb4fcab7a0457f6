"""How many bytes a device environment takes: `pip install espalier-fl` on aarch64 with Python 3.13, by package.

    python -m benchmarks.install_size                       the device
    python -m benchmarks.install_size --extra aggregator    the gateway
    python -m benchmarks.install_size --wheel FILE          a wheel that is already built

Installed from any machine into a temporary folder (scripts/pip_for_arm.py), pip itself not counted. Bytes are those of
the files, not of disk blocks; 1 MB is 10^6 bytes. The .pyc files are compiled by --python (default: a Python 3.13 if
one is found, else this one; their size hardly differs between versions).
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_MB = 150.0


@dataclass(frozen=True)
class Package:
    """An installed distribution: bytes of its files, and of the .pyc files compiled from them."""

    name: str
    version: str
    bytes_without_pyc: int
    bytes_pyc: int


def measure(wheel: Path, extra: str, python: str, folder: Path) -> list[Package]:
    """Install into `folder` and weigh every distribution, the largest first."""
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([sys.executable, ROOT / "scripts" / "pip_for_arm.py", folder, wanted], check=True)
    compiled = subprocess.run([python, "-m", "compileall", "-q", folder], capture_output=True, text=True, check=False)
    if compiled.returncode:
        print(f"not everything compiles: {compiled.stdout.strip()[:300]}", file=sys.stderr)
    packages = [_weigh(folder, info) for info in folder.glob("*.dist-info")]
    counted = sum(p.bytes_without_pyc + p.bytes_pyc for p in packages)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if counted != there:
        packages.append(Package("(of no package)", "", there - counted, 0))
    return sorted(packages, key=lambda p: -p.bytes_without_pyc)


def _weigh(folder: Path, info: Path) -> Package:
    """One distribution by its RECORD, which lists its files relative to the folder; scripts are listed as ../../bin."""
    sizes: dict[bool, int] = defaultdict(int)
    with open(info / "RECORD", newline="") as record:
        files = {folder / row[0].removeprefix("../../") for row in csv.reader(record)}
    for path in filter(Path.is_file, files):
        sizes[False] += path.stat().st_size
        if path.suffix == ".py":
            compiled = (path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc")
            sizes[True] += sum(p.stat().st_size for p in compiled)
    name, version = info.name.removesuffix(".dist-info").split("-")
    return Package(name.replace("_", "-"), version, sizes[False], sizes[True])


def build_wheel(folder: Path, change: Callable[[Path], object] = lambda _: None) -> Path:
    """The wheel of a copy of this checkout, so that nothing is left in it; `change` may edit the copy."""
    source = folder / "source"
    for name in ("device_runtime", "aggregator", "export", "firmware_profiles"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    change(source)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "-w"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder, source], check=True)
    (wheel,) = folder.glob("espalier_fl-*.whl")
    return wheel


def print_table(packages: list[Package], title: str) -> None:
    """One line per distribution, in MB."""
    print(f"{title}\n{'package':24} {'version':12} {'MB':>8} {'.pyc MB':>8} {'share':>6}")
    total = sum(p.bytes_without_pyc for p in packages)
    for p in packages:
        mb, pyc = p.bytes_without_pyc / 1e6, p.bytes_pyc / 1e6
        print(f"{p.name:24} {p.version:12} {mb:8.2f} {pyc:8.2f} {p.bytes_without_pyc / total:6.1%}")
    pyc_total = sum(p.bytes_pyc for p in packages)
    print(f"{'total without .pyc':37} {total / 1e6:8.2f}\n{'total with .pyc':37} {(total + pyc_total) / 1e6:8.2f}")
    print(f"target for the device: at most {LIMIT_MB:.0f} MB without .pyc and pip")


def main() -> None:
    """Install, weigh and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="", help="an extra of the package: aggregator, demo")
    parser.add_argument("--wheel", type=Path, help="built before; default: built from this checkout")
    parser.add_argument("--python", default=_python(), help="what compiles the .pyc files")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    version = subprocess.run([arguments.python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="espalier-size-") as name:
        wheel = arguments.wheel or build_wheel(Path(name))
        packages = measure(wheel, arguments.extra, arguments.python, Path(name).resolve() / "site")
    what = f"espalier-fl[{arguments.extra}]" if arguments.extra else "espalier-fl"
    print_table(packages, f"{what} on aarch64, Python 3.13; .pyc by {version}")
    if arguments.json:
        figures = {
            "what": what,
            "pyc_by": version,
            "bytes_without_pyc": sum(p.bytes_without_pyc for p in packages),
            "bytes_with_pyc": sum(p.bytes_without_pyc + p.bytes_pyc for p in packages),
            "packages": [asdict(p) for p in packages],
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _python() -> str:
    """A Python 3.13 that starts, else this one."""
    candidate = shutil.which("python3.13")
    works = candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0
    return candidate if candidate and works else sys.executable


if __name__ == "__main__":
    main()
