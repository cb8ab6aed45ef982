"""AICR's recipes: what they name is there, and the validator ends as AICR reads it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from typer.main import get_command

from ray_dra import cli
from tests.manifests import PROJECT

RECIPES = PROJECT / "examples" / "aicr" / "recipes"
CHART = PROJECT / "charts" / "ray-dra"
THEIRS = {"nvidia-dra-driver-gpu", "operator-health", "expected-resources"}
"""Components and checks of AICR's own, as its registry and catalog of March 2026 have them."""


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((RECIPES / name).read_text()))


REGISTRY, OVERLAY, CATALOG = map(read, ("registry.yaml", "overlays/training-ray.yaml", "validators/catalog.yaml"))
(VALIDATOR,) = CATALOG["validators"]


def test_what_the_overlay_names_is_there() -> None:
    components = {each["name"]: each for each in REGISTRY["components"]}
    chosen = {each["name"]: each for each in OVERLAY["spec"]["componentRefs"]}
    assert chosen.keys() <= components.keys() | THEIRS
    assert components.keys() <= chosen.keys()
    for each in chosen.values():
        assert set(each.get("dependencyRefs", ())) <= chosen.keys()
    phases = OVERLAY["spec"]["validation"]
    assert set(phases[VALIDATOR["phase"]]["checks"]) == {VALIDATOR["name"], *THEIRS} - {"nvidia-dra-driver-gpu"}
    check = RECIPES / components["ray-dra"]["healthCheck"]["assertFile"]
    assert yaml.safe_load(check.read_text())["kind"] == "Test"


def test_the_charts_values_are_its_own() -> None:
    (ours,) = (each for each in OVERLAY["spec"]["componentRefs"] if each["name"] == "ray-dra")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate({**values, **ours["overrides"]}, json.loads((CHART / "values.schema.json").read_text()))
    (entry,) = (each for each in REGISTRY["components"] if each["name"] == "ray-dra")
    for path in entry["nodeScheduling"]["accelerated"]["nodeSelectorPaths"]:
        at = values
        for name in path.split("."):
            at = at[name]
    assert entry["helm"]["defaultChart"] == yaml.safe_load((CHART / "Chart.yaml").read_text())["name"]


def test_no_link_and_no_large_file_is_among_them() -> None:
    """AICR refuses them."""
    for path in RECIPES.rglob("*"):
        assert not path.is_symlink()
        assert path.stat().st_size < 10 << 20


@pytest.mark.parametrize(("ends", "told"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1), (130, 1)])
def test_the_validator_passes_or_fails_and_is_never_skipped(ends: int, told: int, tmp_path: Path) -> None:
    """AICR takes 2 for skipped, with which the command line tells of wrong options."""
    fake = tmp_path / "ray-dra"
    fake.write_text(f"#!/bin/sh\necho $@\nexit {ends}\n")
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(VALIDATOR["args"], env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == told
    command, *words = done.stdout.split()
    context = get_command(cli.app).commands[command].make_context(command, words)  # type: ignore[attr-defined]
    assert context.params["raycluster"] == "gangs"
    example = yaml.safe_load((CHART / "examples" / "raycluster.yaml").read_text())
    assert example["metadata"]["name"] == "gangs"
