"""Ordinary placement groups through ray-dra and as Ray has them: the same cases, one cluster, the same outcome."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import ray_dra
from ray_dra.adapters.ray_groups import uncaught
from ray_dra.simulated.cluster import LocalCluster

from .cases import CASES, Scene

pytestmark = pytest.mark.ray

DIFFERENT: dict[str, str] = {}
"""Cases that end otherwise, and the paragraph of docs/unchanged.md that says why."""
DOCS = Path(ray_dra.__file__).parents[1] / "docs" / "unchanged.md"


def run(name: str, mode: str) -> Any:
    scene = Scene(mode)
    with nullcontext() if mode == "ours" else uncaught():
        try:
            return CASES[name](scene)
        finally:
            scene.end()


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_in_ray(free: LocalCluster, name: str) -> None:
    rays, ours = run(name, "rays"), run(name, "ours")
    if name in DIFFERENT:
        assert ours != rays
        assert f"## {DIFFERENT[name]}" in DOCS.read_text()
    else:
        assert ours == rays


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 60
    assert DIFFERENT.keys() <= CASES.keys()
