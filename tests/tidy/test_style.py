"""Style that a linter does not hold: one-idea docstrings, function length, banned words, no machine's paths."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for d in ("device_runtime", "aggregator", "export", "firmware_profiles") for p in (ROOT / d).rglob("*.py")]
FUNCTION_LINES_MAX = 60  # code lines; the aim is 30
FILE_LINES_MAX = 500
TEXTS = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".toml", ".sh") and ".venv" not in str(p)]


def code_lines(node: ast.AST) -> int:
    """Lines that hold code: no docstring, no blank, no comment."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return len({n.lineno for part in body for n in ast.walk(part) if hasattr(n, "lineno")})


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_its_one_idea_and_keeps_it_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert docstring, f"{path} has no docstring"
    assert docstring.splitlines()[0].rstrip().endswith((".", ":", ",")) or "\n" in docstring
    assert len(text.splitlines()) <= FILE_LINES_MAX, f"{path} holds more than one idea"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} is too long"


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
