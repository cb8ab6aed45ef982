"""The flat public namespace, and how light the import is."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_dra
from ray_dra import api, errors, hooks

ROOT = Path(__file__).parents[1]
MODULES = {"hooks", "wake"}  # beside the names in `__all__`: what Ray and Kubernetes call


def test_public_names_are_those_that_load() -> None:
    assert sorted(ray_dra.__all__) == ray_dra.__all__ == dir(ray_dra)
    assert sorted(ray_dra._HOME) == ray_dra.__all__
    for name in ray_dra.__all__:
        there = getattr(ray_dra, name)
        assert there.__name__ == name
        assert there.__module__ == ray_dra._HOME[name]
    with pytest.raises(AttributeError):
        ray_dra.no_such_name  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(ray_dra.__file__).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {(a.name, n.module) for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == set(ray_dra._HOME.items())


def test_all_that_a_program_calls_and_catches_is_public() -> None:
    """Every function of the api, and every error but those that only tell one partner's apart."""
    api_names = {name for name in vars(api) if not name.startswith("_") and _home(getattr(api, name)) == api.__name__}
    assert {name for name, home in ray_dra._HOME.items() if home == api.__name__} == api_names
    kinds: list[type] = [errors.RayDraError, *errors.RayDraError.__subclasses__()]
    branches = {kind.__name__ for kind in kinds if kind.__module__ == errors.__name__}
    assert {name for name, home in ray_dra._HOME.items() if home == errors.__name__} == branches


def _home(thing: object) -> str | None:
    return getattr(thing, "__module__", None) if callable(thing) else None


def test_the_docs_tell_every_public_name_and_no_other() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    told = re.findall(r"^\| `([\w.]+)` \| .+ \|$", text, re.MULTILINE)
    assert len(told) == len(set(told))
    names = {name for name in told if name.split(".")[0] not in MODULES}
    assert names == set(ray_dra.__all__)
    hooked = {name.removeprefix("hooks.") for name in told if name.startswith("hooks.")}
    assert hooked == {name for name in vars(hooks) if _home(getattr(hooks, name)) == hooks.__name__}
    assert {name.split(".")[0] for name in told} - names == MODULES


def test_docs_and_examples_use_public_names_alone() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py")]
    used = {name for file in files for name in re.findall(r"\bray_dra\.([a-z]\w*|[A-Z]\w*)", file.read_text())}
    assert {"placement_group", "same_clique", "plan"} <= used
    assert used - set(ray_dra.__all__) <= {*MODULES, "simulated"}  # the testbed's page starts simulated machines


def test_the_import_is_light() -> None:
    """No Ray, no pydantic, no networkx: Ray reads any ImportError in here as "no such module"."""
    code = "import sys, ray_dra; print([m for m in ('ray', 'pydantic', 'networkx', 'pynvml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_error_is_ours_and_travels() -> None:
    """They cross from the coordinator's process to the driver's, with everything they carry."""
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.RayDraError)]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind("why", place="there", wanted="much", available="little")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert all(text in str(copy) for text in ("why", "there", "much", "little"))


def test_the_tree_of_errors_is_as_drawn() -> None:
    drawn: dict[str, tuple[str, tuple[str, ...]]] = {}  # name -> its parent here, and its other one
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:\|   )*)(\+-- )?(\w+)(?: \((\w+)\))?(?:  |$)", line)
        if found and found[3].isidentifier() and hasattr(errors, found[3]):
            depth = len(found[1]) // 4 + bool(found[2])
            above[depth:] = [found[3]]
            drawn[found[3]] = (above[-2] if depth else "Exception", (found[4],) if found[4] else ())
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.RayDraError)]
    bases = {kind.__name__: [base.__name__ for base in kind.__bases__] for kind in kinds}
    assert drawn == {name: (first, tuple(others)) for name, (first, *others) in bases.items()}
