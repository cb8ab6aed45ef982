"""One file spells the names that ray-dra shares with somebody else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ray_dra
from ray_dra.translate import names

HOUSE = Path(ray_dra.__file__).parent
SPELLED = re.compile(
    r"(?:ray-dra|ray|nvidia|amd|resource\.kubernetes)\.(?:io|com)/"  # labels, annotations, attributes, API versions
    r"|\b(?:nvidia|amd)\.com\b"
    r"|^_*(?:FQ_RAY|RAY|CUDA|NVIDIA|POD|NODE|KUBE)_[A-Z_]+$|^KUBECONFIG$"  # environment variables
    r"|\bRAY_DRA_[A-Z]|\bRAY_[A-Z]+_[A-Z]"  # and in sentences and f-strings
)
SHARED = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)} | {
    *names.HEAD_HOST_VARIABLES
}
KEYS = {value for value in SHARED if value.endswith("/")}
EXCEPTIONS = {
    # file or folder: why
    "translate/names.py": "the file itself",
    "simulated/dra": "stands for NVIDIA's driver and controller: what only they write is spelled there, so that a wrong"
    " name of ours is noticed",
    "translate/vendors.py": "what is each GPU vendor's own, in one table",
    "core/model/imex.py": "'node/' is the scope of a counter, no key of the store",
}


def spelled_in(file: Path) -> Iterator[str]:
    """Names in a file's strings, f-strings included; docstrings may speak of them."""
    tree = ast.parse(file.read_text())
    told = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            text = node.value
            if SPELLED.search(text) or text in KEYS or any(shared in text for shared in SHARED - KEYS if "/" in shared):
                yield f"line {node.lineno}: {text!r:.80}"


def files() -> list[Path]:
    found = sorted(HOUSE.rglob("*.py"))
    return [file for file in found if "proto" not in file.parts and excepted(file) is None]


def excepted(file: Path) -> str | None:
    at = file.relative_to(HOUSE)
    return next((why for place, why in EXCEPTIONS.items() if place in (str(at), *map(str, at.parents))), None)


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(HOUSE)))
def test_no_other_file_spells_a_shared_name(file: Path) -> None:
    assert not list(spelled_in(file)), "take it from translate/names.py, or of a vendor from translate/vendors.py"


@pytest.mark.parametrize("place", EXCEPTIONS)
def test_each_exception_is_needed(place: str) -> None:
    at = HOUSE / place
    assert any(any(spelled_in(file)) for file in ([at] if at.is_file() else at.rglob("*.py")))


def test_it_notices_each_form(tmp_path: Path) -> None:
    for text in (
        'x = "ray-dra.io/gang"',
        'x = {"ray.io/v1": 1}',
        'x = f"{a}ray.io/node-type=head"',
        'x = os.environ["POD_NAME"]',
        'x = os.environ.get("RAY_DRA_NODE")',
        'x = "set RAY_AUTH_MODE=token"',
        'x = "gpu.nvidia.com"',
        'x = store.keys("gang/")',
        'x = f"slot/{label}"',
    ):
        file = tmp_path / "it.py"
        file.write_text(text)
        assert list(spelled_in(file)), text
    file.write_text('"""Of `ray.io/group` and RAY_ADDRESS."""\nx = "ray_dra://"')
    assert not list(spelled_in(file))


def test_no_two_names_are_one_by_accident() -> None:
    """But for the gang's id and gate, which are called alike."""
    texts = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    twice = {name for name, value in texts.items() if sum(other == value for other in texts.values()) > 1}
    assert twice == {"GANG_LABEL", "GATE"}
    for key in KEYS:
        assert not any(other != key and other.startswith(key) for other in KEYS)


def test_names_of_ours_in_docs_manifests_and_examples_are_there() -> None:
    """A label that is renamed is renamed there, too."""
    root = HOUSE.parent
    ours = re.compile(r"ray-dra\.io/[a-z][a-z-]*[a-z]|RAY_DRA_[A-Z_]*[A-Z]")
    files = [path for folder in ("docs", "kube", "examples") for path in sorted((root / folder).rglob("*"))]
    spelled = {
        name: str(path.relative_to(root))
        for path in [root / "README.md", *files]
        if path.suffix in (".md", ".yaml", ".py", ".sh") or path.name == "Dockerfile"
        for name in ours.findall(path.read_text())
    }
    assert len(spelled) >= 5
    testbed = {name for path in (root / "tests" / "cluster").glob("*.py") for name in ours.findall(path.read_text())}
    assert {name: place for name, place in spelled.items() if name not in SHARED | testbed} == {}
