"""No import circles between modules of ours, imports inside functions included; entry points are no imports."""

import ast
from collections.abc import Iterable, Mapping

from tests.tidy.test_imports import OURS, modules


def imported(tree: ast.AST, known: Iterable[str]) -> set[str]:
    """The modules among `known` that a source imports, wherever in it: of `from a import b` the module a.b, or else a.

    >>> sorted(imported(ast.parse("from a import b, f"), {"a", "a.b"}))
    ['a', 'a.b']
    """
    names = set(known)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else str(node.module) for name in whole}
    return found & names


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another (Tarjan's strongly connected components), single ones left out.

    >>> sorted(sorted(c) for c in circles({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": {"d"}}))
    [['a', 'b'], ['d']]
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1 or node in graph[node]:
                found.add(frozenset(members))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_imports_of_all_kinds_are_seen() -> None:
    source = "import a.b\nfrom a import c, f\ndef g():\n    from d import e\n    import numpy\n"
    assert imported(ast.parse(source), {"a", "a.b", "a.c", "d", "d.e"}) == {"a", "a.b", "a.c", "d.e"}


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}, "f": {"a"}}
    assert circles(graph) == {frozenset("abc"), frozenset("e")}


def test_no_modules_of_ours_import_one_another_in_a_circle() -> None:
    sources = dict(modules())
    graph = {name: imported(ast.parse(path.read_text()), sources) for name, path in sources.items()}
    assert len(graph) > 200
    assert all(name.partition(".")[0] in OURS for name in graph)
    assert circles(graph) == set(), "mend it: move what both need into a module that imports neither"
