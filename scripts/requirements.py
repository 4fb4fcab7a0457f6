"""The requirements of the base install and of extras, one a line, as pyproject.toml has them: for `scripts/test`.

    scripts/requirements.py aggregator test --without onnxruntime matplotlib

--without: distributions whose names begin so are left out, for environments that have another onnxruntime. Needs the
standard library only.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(project: dict[str, dict[str, list[str]]], extras: list[str], without: list[str]) -> Iterator[str]:
    """Every requirement once, in the order of the file; an extra that asks for extras of its own is followed."""
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    seen: set[str] = set()
    while lines:
        line = lines.pop(0)
        name = re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]
        if name == project["name"]:
            lines = project["optional-dependencies"][line.partition("[")[2].rstrip("]")] + lines
        elif line not in seen and not name.startswith(tuple(without)):
            seen.add(line)
            yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", nargs="*", default=[])
    arguments = parser.parse_args()
    found = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(requirements(found, arguments.extras, arguments.without)))
