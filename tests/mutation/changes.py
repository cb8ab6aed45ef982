"""The small changes of a module: one operator, constant, condition or result at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Change(NamedTuple):
    """One mutant.

    Attributes:
        start, end: the bytes of the module that `text` takes the place of.
        statement: line and column of the statement around it, which the probe of that statement has.
    """

    path: str
    line: int
    start: int
    end: int
    before: str
    text: str
    statement: tuple[int, int]

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {_short(self.before)}  ->  {_short(self.text)}"


def _short(text: str) -> str:
    return " ".join(text.split())


def changes(path: str, source: bytes) -> list[Change]:
    """All changes of a module, in the order of its text."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    found = []
    for node, new, statement in _walk(ast.parse(source)):
        begin, end = at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0)
        text = ast.unparse(new)
        if isinstance(new, ast.expr):
            text = f"({text})"
        before = source[begin:end].decode()
        found.append(Change(path, node.lineno, begin, end, before, text, (statement.lineno, statement.col_offset)))
    return found


_Found = Iterator[tuple[ast.expr | ast.stmt, ast.expr | ast.stmt, ast.stmt]]


def _walk(tree: ast.Module) -> _Found:
    for statement in tree.body:
        yield from _of_statement(statement)


def _of_statement(statement: ast.stmt) -> _Found:
    """Changes of a statement and of all in it; not of imports, annotations, decorators, asserts and zip's strict."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert) or _named(statement, "__slots__", "__all__"):
        return
    if isinstance(statement, ast.Return) and statement.value is not None and not _is_none(statement.value):
        yield statement, ast.Return(ast.Constant(None)), statement
    if isinstance(statement, ast.AugAssign):
        changed = _other_operator(statement.op)
        if changed is not None:
            yield statement, ast.AugAssign(statement.target, changed, statement.value), statement
    if isinstance(statement, ast.If | ast.While):
        if isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING":
            return
        yield statement.test, ast.UnaryOp(ast.Not(), statement.test), statement
    for name, value in ast.iter_fields(statement):
        if name in ("annotation", "returns", "decorator_list", "bases", "keywords", "type_params"):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.stmt):
                yield from _of_statement(part)
            elif isinstance(part, ast.ExceptHandler | ast.match_case):
                for inner in part.body:
                    yield from _of_statement(inner)
            elif isinstance(part, ast.AST):
                yield from _of_expression(part, statement)


def _of_expression(node: ast.AST, statement: ast.stmt) -> _Found:
    if isinstance(node, ast.JoinedStr):
        return  # where its parts lie is not known before Python 3.12
    if isinstance(node, ast.expr):
        for new in _others(node):
            yield node, new, statement
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return  # of zip: a check like `assert`, which holds
    for name, value in ast.iter_fields(node):
        if name == "annotation":
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _of_expression(part, statement)


def _others(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[at] = COMPARED[type(op)]()
            yield changed
    elif isinstance(node, ast.BinOp):
        operator = _other_operator(node.op)
        if operator is not None:
            yield ast.BinOp(node.left, operator, node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLED:
        yield ast.Call(ast.Name(CALLED[node.func.id]), node.args, node.keywords)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for at, generator in enumerate(node.generators):
            for which, test in enumerate(generator.ifs):
                changed_comp = copy.deepcopy(node)
                changed_comp.generators[at].ifs[which] = ast.UnaryOp(ast.Not(), test)
                yield changed_comp


def _other_operator(op: ast.operator) -> ast.operator | None:
    kind = COMPUTED.get(type(op))
    return None if kind is None else kind()


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _named(statement: ast.stmt, *names: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id in names for target in targets)
