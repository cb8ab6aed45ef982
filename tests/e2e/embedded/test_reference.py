"""docs/unchanged.md says of every part of Ray's calls what it is through ray-dra, by cases that are run. No Ray."""

from __future__ import annotations

import inspect
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ray.core.generated import gcs_pb2

import ray_dra
from ray_dra.adapters.ray_groups import PARAMETERS, _module

from .cases import CASES

DOCS = (Path(ray_dra.__file__).parents[1] / "docs" / "unchanged.md").read_text()
TABLE = DOCS.split("\n## Every argument, return value, exception and state\n")[1]


def parts() -> dict[str, list[list[str]]]:
    """The rows below each of Ray's names, its own included."""
    found: dict[str, list[list[str]]] = {}
    for line in TABLE.splitlines():
        if line.startswith("| ") and not line.startswith("| of Ray's"):
            row = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            if row[0].startswith("**"):
                found[row[0].strip("*`")] = []
            found[list(found)[-1]].append(row)
    return found


def cells(name: str) -> str:
    return "\n".join(row[0] for row in parts()[name])


@pytest.mark.parametrize("function", [*PARAMETERS, "get_current_placement_group"])
def test_every_argument_is_there(function: str) -> None:
    said = re.findall(r"`(\w+)`", cells(function))
    assert set(inspect.signature(getattr(_module(), function)).parameters) <= set(said)
    assert re.search(r"\breturns\b", cells(function))


def test_every_public_name_is_there() -> None:
    public = [name for name in vars(_module().PlacementGroup) if not name.startswith("_")]
    said = cells("PlacementGroup")
    assert [name for name in public if not re.search(rf"`{name}\b", said)] == []
    annotated = [n for n, v in vars(_module()).items() if getattr(v, "_annotated", n) == n and hasattr(v, "_annotated")]
    assert len(annotated) >= 6
    assert set(annotated) <= parts().keys()


def test_every_state_is_there() -> None:
    said = re.findall(r"state `(\w+)`", cells("placement_group_table"))
    assert sorted(said) == sorted(gcs_pb2.PlacementGroupTableData.PlacementGroupState.keys())


def test_every_case_is_named_and_every_name_is_a_case() -> None:
    named = [pattern for rows in parts().values() for row in rows for pattern in re.findall(r"`([\w*]+)`", row[2])]
    assert [pattern for pattern in named if not any(fnmatch(case, pattern) for case in CASES)] == []
    assert [case for case in CASES if not any(fnmatch(case, pattern) for pattern in named)] == []


def test_what_is_not_the_same_says_why() -> None:
    """In the row itself, or in a paragraph that is there."""
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in DOCS.splitlines()}
    for rows in parts().values():
        for row in rows:
            assert len(row) == 3, row
            assert [link for link in re.findall(r"\]\(#([^)]+)\)", row[1]) if link not in headings] == []
            assert row[2] or "](#" in row[1], f"{row[0]}: neither a case nor a reason"
