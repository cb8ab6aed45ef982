"""Kubernetes objects are types in the coordinator: none of its files reads a field of a dict by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_dra import coordinator

ROOM = Path(coordinator.__file__).parent
FIELDS = {
    *("apiVersion", "kind", "metadata", "spec", "status", "name", "namespace", "uid", "labels", "annotations"),
    *("resourceVersion", "deletionTimestamp", "creationTimestamp", "ownerReferences", "template", "nodeName", "phase"),
    *("schedulingGates", "conditions", "containers", "tolerations", "workerGroupSpecs", "groupName", "replicas"),
    *("suspend", "upgradeStrategy", "allocation", "devices", "results", "requests", "driver", "pool", "attributes"),
}


def raw_fields(text: str) -> Iterator[str]:
    """`x["metadata"]`, `x.get("status")`, "uid" in x."""
    for node in ast.walk(ast.parse(text)):
        found: ast.expr | None = None
        if isinstance(node, ast.Subscript):
            found = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            found = node.args[0] if node.args else None
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            found = node.left
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and found.value in FIELDS:
            yield f"line {found.lineno}: {found.value!r}"


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOM)))
def test_no_file_reads_a_raw_object(file: Path) -> None:
    assert not list(raw_fields(file.read_text())), "translate.kube makes a type of it"


def test_it_notices_them() -> None:
    for text in ('x["metadata"]', 'x.get("status") or {}', '"uid" in meta', 'x["spec"]["a"] = 1'):
        assert list(raw_fields(text))
    assert not list(raw_fields('total.get("GPU", 0), x[0], x[name], kinds[key]'))
