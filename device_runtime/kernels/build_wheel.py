"""The build backend: one wheel that holds one shared library, for any Python 3 of one platform.

    pip wheel --no-deps .                                                      for this machine, by its compiler
    pip wheel --no-deps --config-settings target=aarch64-linux-gnu.2.28 .      for another, by zig

Where there is no C++ compiler, pip is asked for ziglang, which is one.
"""

import base64
import hashlib
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from compile_library import compile_library, has_compiler

FOLDER = Path(__file__).parent
PACKAGE = "espalier_kernels"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
# The same wheel whenever it is made from the same library.
DATE = (1980, 1, 1, 0, 0, 0)

Settings = Mapping[str, str] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What pip installs before it calls `build_wheel`."""
    return ["ziglang>=0.17"] if _target(config_settings) or not has_compiler() else []


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Compile, and write the wheel into `wheel_directory`; gives its name."""
    target = _target(config_settings)
    info = f"{PACKAGE}-{PROJECT['version']}.dist-info"
    tag = f"py3-none-{_platform(target)}"
    files = {f"{PACKAGE}/__init__.py": (FOLDER / PACKAGE / "__init__.py").read_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{PACKAGE}.so"
        compile_library(library, target, ["-s"])
        files[f"{PACKAGE}/{library.name}"] = library.read_bytes()
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/RECORD"] = _record(files, info).encode()
    name = f"{PACKAGE}-{PROJECT['version']}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, DATE)
            entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return name


def _target(settings: Settings) -> str:
    return (settings or {}).get("target", "")


def _platform(target: str) -> str:
    """The wheel's platform: by glibc where zig was told one, else this machine's."""
    if not target:
        return sysconfig.get_platform().replace("-", "_").replace(".", "_")
    machine, _, glibc = target.partition("-linux-gnu.")
    return f"manylinux_{glibc.replace('.', '_')}_{machine}"


def _metadata() -> str:
    return (
        f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
        f"Summary: {PROJECT['description']}\nLicense: {PROJECT['license']}\n"
        f"Requires-Python: {PROJECT['requires-python']}\n"
    )


def _record(files: Mapping[str, bytes], info: str) -> str:
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{info}/RECORD,,", ""])
