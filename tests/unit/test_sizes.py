"""Small rooms: a file that outgrows its limit wants to be two."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import suanchou

SOURCE = Path(suanchou.__file__).parent
FILE_LINES = 400
FUNCTION_LINES = 60


def long_files(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        n = len(path.read_text(encoding="utf-8").splitlines())
        if n > FILE_LINES:
            yield f"{path.relative_to(root)}: {n} lines"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, without its docstring; a long list of named parameters is no complexity."""
    first = node.body[0]
    doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    start = first.end_lineno + 1 if doc else first.lineno
    return node.end_lineno - start + 1


def long_functions(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > FUNCTION_LINES:
                yield f"{path.relative_to(root)}:{node.lineno} {node.name}: {code_lines(node)} lines"


def test_files_are_short():
    assert list(long_files(SOURCE)) == []


def test_functions_are_short():
    assert list(long_functions(SOURCE)) == []


def test_the_check_sees_what_is_long(tmp_path):
    (tmp_path / "long.py").write_text("def f():\n    '''Doc.\n    '''\n" + "    x = 1\n" * 400)
    assert list(long_files(tmp_path)) == ["long.py: 403 lines"]
    assert list(long_functions(tmp_path)) == ["long.py:1 f: 400 lines"]
