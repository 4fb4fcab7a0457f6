"""Compile the operators into one shared library, by the system's C++ compiler or by zig.

    python compile_library.py OUT.so                                    for this machine
    python compile_library.py OUT.so --target aarch64-linux-gnu.2.28    for another, by zig

The inner loops are compiled once for each set of instructions; which of them runs is decided when the library is
loaded. Nothing of a C++ standard library is used, so the library needs the C library alone.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
LOOPS = "kernels.cpp"
FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
    "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi",
]  # fmt: skip
INSTRUCTIONS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
        "avx2": ["-mavx2", "-mfma"],
        "baseline": [],
    },
    "aarch64": {"baseline": []},
}


def has_compiler() -> bool:
    """Whether this machine has a C++ compiler of its own."""
    return _system() is not None


def _system() -> list[str] | None:
    named = os.environ.get("CXX", "").split()
    found = next((path for path in map(shutil.which, ("g++", "clang++", "c++")) if path), None)
    return named or (None if found is None else [found])


def compiler(target: str) -> list[str]:
    """The command that compiles C++ for `target` ("" for this machine), without a standard library."""
    system = _system()
    if not target and system is not None:
        return [*system, "-nostdlib++"] if "clang" in system[0] else system
    if importlib.util.find_spec("ziglang") is None:
        sys.exit("no C++ compiler was found: install g++, or ziglang from the package index")
    return [sys.executable, "-m", "ziglang", "c++", *(["-target", target] if target else []), "-nostdlib++"]


def compile_library(out: Path, target: str, extra: list[str]) -> None:
    """Write the library for `target` to `out`."""
    command, machine = compiler(target), target.partition("-")[0] or platform.machine()
    if machine not in INSTRUCTIONS:
        sys.exit(f"there are no kernels for {machine}: known are {', '.join(INSTRUCTIONS)}")
    jobs: list[tuple[str, str, list[str]]] = [
        (path.name, path.stem, []) for path in sorted(SOURCE.glob("*.cpp")) if path.name != LOOPS
    ]
    for name, flags in INSTRUCTIONS[machine].items():
        jobs.append((LOOPS, f"kernels_{name}", [f"-DESPALIER_NAME={name}", *flags]))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def compile_one(job: tuple[str, str, list[str]]) -> str:
            source, stem, flags = job
            made = f"{folder}/{stem}.o"
            subprocess.run([*command, *FLAGS, *extra, *flags, "-c", str(SOURCE / source), "-o", made], check=True)
            return made

        objects = list(pool.map(compile_one, jobs))
        subprocess.run([*command, *extra, "-shared", *objects, "-o", str(out), "-lpthread"], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="")
    parser.add_argument("--flag", action="append", default=[], help="one more flag, e.g. --flag=-fsanitize=address")
    arguments = parser.parse_args()
    compile_library(arguments.out, arguments.target, arguments.flag)
