"""`kubectl ray-dra` by krew: the manifest is of the archive that is made, and the archive's program finds ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from ray_dra.cli.exit_codes import UNREACHABLE
from ray_dra.translate.names import VERSION

BUILD = Path(__file__).parents[1] / "kube" / "krew" / "build.sh"
URL = "https://downloads.example/v1/kubectl-ray_dra.tar.gz"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    subprocess.run(["sh", str(BUILD), URL, str(tmp_path)], check=True)
    with tarfile.open(tmp_path / "kubectl-ray_dra.tar.gz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return tmp_path


def test_the_manifest_is_of_the_archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = yaml.safe_load((made / "ray-dra.yaml").read_text())
    (platform,) = manifest["spec"]["platforms"]
    archive = (made / "kubectl-ray_dra.tar.gz").read_bytes()
    assert manifest["metadata"]["name"] == "ray-dra"
    assert manifest["spec"]["version"] == f"v{VERSION}"
    assert (platform["uri"], platform["sha256"]) == (URL, hashlib.sha256(archive).hexdigest())
    assert len(manifest["spec"]["shortDescription"]) <= 50, "krew's bound"
    assert {each.name for each in (made / "store").iterdir()} == {platform["bin"], "LICENSE"}
    again = tmp_path_factory.mktemp("again")
    subprocess.run(["sh", str(BUILD), URL, str(again)], check=True)
    assert (again / "kubectl-ray_dra.tar.gz").read_bytes() == archive


def test_its_program_runs_the_installed_one_or_says_what_is_missing(made: Path) -> None:
    place = made / "place"
    place.mkdir()
    for name in ("ray-dra", "kubectl-ray_dra"):
        (place / name).write_text(f'#!/bin/sh\necho "{name}" "$@"\n')
        (place / name).chmod(0o755)
    shim = str(made / "store" / "kubectl-ray_dra")

    def run(path: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([shim, "gangs", "a b"], env={"PATH": path}, capture_output=True, text=True, check=False)

    assert run(f"{place}:/usr/bin:/bin").stdout == "kubectl-ray_dra gangs a b\n"
    missing = run("/usr/bin:/bin")
    assert missing.returncode == UNREACHABLE
    assert "pipx install ray-dra" in missing.stderr
    assert os.access(shim, os.X_OK)
