"""Style that a linter does not hold: one-idea docstrings, function length, banned words, no machine's paths."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for d in ("device_runtime", "aggregator", "export", "firmware_profiles") for p in (ROOT / d).rglob("*.py")]
FUNCTION_LINES_MAX = 45
FUNCTION_LINES_P90_MAX = 20
FILE_LINES_MAX = 300
TEXTS = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".toml", ".sh") and ".venv" not in str(p)]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(node: Function, lines: list[str]) -> int:
    """Lines of a function from its `def` to its end that hold code: no docstring, no blank, no comment."""
    held = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    if ast.get_docstring(node):
        held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(1 for n in held if (text := lines[n - 1].strip()) and not text.startswith("#"))


def functions(path: Path) -> list[tuple[Function, int]]:
    """Every function of a file, and how many lines of code it has."""
    text = path.read_text()
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
    return [(node, code_lines(node, text.splitlines())) for node in found]


def test_lines_of_code_are_counted_from_the_def_without_words() -> None:
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    # why\n\n    return {\n        a: 1,\n    }\n'
    (node,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, Function))
    assert code_lines(node, source.splitlines()) == 6


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_its_one_idea_and_keeps_it_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert docstring, f"{path} has no docstring"
    assert docstring.splitlines()[0].rstrip().endswith((".", ":", ",")) or "\n" in docstring
    assert len(text.splitlines()) <= FILE_LINES_MAX, f"{path} holds more than one idea"
    for node, length in functions(path):
        assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} is too long"


def test_nine_functions_of_ten_are_short() -> None:
    lengths = sorted(length for path in SOURCES for _, length in functions(path))
    assert lengths[int(0.9 * len(lengths))] <= FUNCTION_LINES_P90_MAX


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_public_function_and_class_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_text_names_this_machine_or_leaves_a_stub(path: Path) -> None:
    if path == Path(__file__):
        return
    text = path.read_text()
    stubs = ("raise NotImplementedError", "# TODO", "# FIXME", "# XXX")
    for banned in ("/wor" + "k/", "/roo" + "t/", "pickle.load", *stubs):
        assert banned not in text, f"{path} contains {banned}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_named_for_nothing(path: Path) -> None:
    assert path.stem not in ("utils", "helpers", "common", "misc", "manager", "handler")
