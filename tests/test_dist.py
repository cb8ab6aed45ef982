"""The wheel and the source distribution: built, checked as an index would, and installed where nothing is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ray_dra.translate.names import VERSION

PROJECT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ray_dra")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(*command: str, cwd: Path) -> str:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, of a copy: a build leaves folders beside its sources."""
    copy = tmp_path_factory.mktemp("project")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "compiled"))
        else:
            shutil.copy(PROJECT / name, copy)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=copy)
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, (copy / "dist").iterdir()), cwd=copy)
    return copy / "dist"


def test_they_have_what_the_package_reads_and_nothing_compiled(built: Path) -> None:
    (wheel,) = built.glob(f"ray_dra-{VERSION}-*.whl")
    (source,) = built.glob(f"ray_dra-{VERSION}.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    with tarfile.open(source) as file:
        sources = {name.partition("/")[2] for name in file.getnames()}
    package = PROJECT / "ray_dra"
    kinds = (".py", ".pyi", ".c", ".yaml", ".proto", ".typed")
    files = [p for p in package.rglob("*") if p.suffix in kinds or p.name == "py.typed"]
    wanted = {str(p.relative_to(PROJECT)) for p in files if "__pycache__" not in p.parts and "compiled" not in p.parts}
    assert {name for name in wanted if not name.endswith(".pyi")} <= names
    assert wanted - {name for name in wanted if name.endswith(".pyi")} <= sources
    assert not [name for name in names | sources if name.endswith((".pyc", ".so"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_where_nothing_is_it_runs(built: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", "place", cwd=tmp_path)
    python = str(tmp_path / "place" / "bin" / "python")
    (wheel,) = built.glob("*.whl")
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if uv is None:
        pytest.skip("uv is not there to install by")
    run(uv, "pip", "install", "--quiet", "--python", python, str(wheel), cwd=tmp_path)
    assert run(python, "-c", "import ray_dra; print(ray_dra.__version__)", cwd=tmp_path) == f"{VERSION}\n"
    command = str(tmp_path / "place" / "bin" / "ray-dra")
    assert run(command, "--version", cwd=tmp_path) == f"ray-dra {VERSION}\n"
    assert "gb200-nvl72" in run(command, "profiles", cwd=tmp_path)
    run(command, "snapshot", "rack.yaml", "--profile", "gb200-nvl72", "--nodes", "2", cwd=tmp_path)
    assert "fits" in run(command, "plan", "rack.yaml", "--gpus", "4", "--bundles", "2", "--same-clique", cwd=tmp_path)
