"""Which statements a test runs: each statement of a module gets a mark in front of it that costs next to nothing.

`sys.monitoring` would do the same from Python 3.12 on; a tracer in Python is far too slow for the planner's tests.
"""

from __future__ import annotations

import ast
import builtins

NAME = "_probes_"
"""A bytearray in `builtins`, which the marks set."""
MOST = 100_000


Probe = tuple[str, int, int]
"""(module's path, line, column) of a statement."""


def install() -> bytearray:
    marks = bytearray(MOST)
    setattr(builtins, NAME, marks)
    return marks


def probed(path: str, source: bytes, probes: list[Probe]) -> bytes:
    """The module with a mark in front of each statement; their places are added to `probes`."""
    tree = ast.parse(source)
    _mark_body(tree, path, probes)
    first = f"import builtins; {NAME} = getattr(builtins, {NAME!r}, None) or bytearray({MOST})"
    at = 0
    for at, statement in enumerate(tree.body):  # noqa: B007
        if not _docstring(statement) and not (
            isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        ):
            break
    tree.body[at:at] = ast.parse(first).body
    return ast.unparse(ast.fix_missing_locations(tree)).encode()


def _mark_body(node: ast.AST, path: str, probes: list[Probe]) -> None:
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, name, None)
        if not isinstance(inner, list):
            continue
        marked: list[ast.AST] = []
        for child in inner:
            if isinstance(child, ast.stmt) and not _docstring(child) and not _future(child):
                mark = f"{NAME}[{len(probes)}] = 1"
                probes.append((path, child.lineno, child.col_offset))
                marked += ast.parse(mark).body
            marked.append(child)
            _mark_body(child, path, probes)
        inner[:] = marked


def _docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
