"""The list of parts has every installed distribution, in its version, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from tests.manifests import PROJECT


def listed(folder: Path) -> dict[str, str]:
    """What the command of `make sbom` writes, name to version; without the check against CycloneDX's schema, which the
    command makes by itself and which takes ten seconds."""
    recipe = re.search(r"^sbom:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    command = recipe[1].replace("\\\n", " ").replace("$(BIN)/cyclonedx-py", "cyclonedx_py").replace("$(BIN)/python", "")
    words = [*command.replace("sbom.cdx.json", str(folder / "sbom.cdx.json")).split(), "--no-validate", sys.executable]
    done = subprocess.run([sys.executable, "-m", *words], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads((folder / "sbom.cdx.json").read_text())
    assert made["bomFormat"] == "CycloneDX"
    parts = [made["metadata"]["component"], *made["components"]]
    assert all(part.get("purl", "").startswith("pkg:pypi/") for part in made["components"])
    return {canonical(part["name"]): part["version"] for part in parts}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_makes_every_import_of_ray_slow_is_not_installed() -> None:
    assert find_spec("rfc3987_syntax") is None, "an old .venv has it: make clean"


def test_every_installed_distribution_is_listed(tmp_path: Path) -> None:
    # Where this Python installs: Ray puts a folder on the path that it carries inside itself, with two more.
    paths = sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")})
    installed = {canonical(each.metadata["Name"]): each.version for each in distributions(path=paths)}
    assert len(installed) > 50
    assert listed(tmp_path) == installed


def test_the_image_lists_its_parts_by_the_same_tool() -> None:
    recipe = (PROJECT / "kube" / "image" / "Dockerfile").read_text()
    assert "cyclonedx-py environment" in recipe.partition("AS listing")[2].partition("\nFROM ")[0]
    assert re.search(r"^FROM scratch AS sbom\nCOPY --from=listing /tmp/sbom.cdx.json /$", recipe, re.MULTILINE)
