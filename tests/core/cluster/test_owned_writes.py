"""A node's and a clique's state change only by their own methods: nobody else assigns to their attributes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ray_dra
from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.node_state import NodeState

PACKAGE = Path(ray_dra.__file__).parent
OWNED = {
    "core/cluster/node_state.py": set(NodeState.__slots__),
    "core/cluster/clique_state.py": set(CliqueState.__slots__),
}
ALL = set().union(*OWNED.values())
CALLED = {"state", "node_state", "clique", "made", "s"}
"""What variables with a NodeState or a CliqueState are called."""

CHANGING = {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}


def writes(source: str, slots: set[str]) -> list[str]:
    """Assignments to these attributes of a variable that has a state, or to what they hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        at: ast.AST = node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            at = node.func.value
        elif not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            continue
        while isinstance(at, ast.Subscript):
            at = at.value
        if not (isinstance(at, ast.Attribute) and isinstance(at.value, ast.Name)):
            continue
        if at.attr in slots and at.value.id in CALLED:
            found.append(f"{at.value.id}.{at.attr} in line {at.lineno}")
    return found


def test_nobody_else_writes() -> None:
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        place = str(path.relative_to(PACKAGE))
        if found := writes(path.read_text(), ALL - OWNED.get(place, set())):
            wrong[place] = found
    assert not wrong


@pytest.mark.parametrize(
    "line", ["state.held |= 1", "clique.nodes_by_free[0] ^= 1", "state.tenants.pop('g')", "del node_state.used['CPU']"]
)
def test_a_write_is_seen(line: str) -> None:
    assert writes(line, ALL)
