"""docs/glossary.md forbids words as names; none of them is one in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_dra"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the glossary."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    part = re.split(rf"^#+ {heading}$", text, flags=re.MULTILINE)[1]
    part = re.split(r"^#", part, flags=re.MULTILINE)[0]
    table = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def forbidden() -> set[str]:
    return {name for row in rows("Names that do not come back") for name in re.findall(r"`(\w+)`", row[0])}


def allowed() -> set[tuple[str, str]]:
    return {(name.strip("`"), path) for name, path, _ in rows("Exceptions")}


def words(name: str) -> list[str]:
    """CamelCase and snake_case, taken apart."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def names(tree: ast.Module) -> Iterator[str]:
    """Every name that the module gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def breaks(name: str, words_or_names: set[str]) -> bool:
    return name in words_or_names or not words_or_names.isdisjoint(words(name))


def test_no_name_is_a_forbidden_word() -> None:
    banned, excepted = forbidden(), allowed()
    assert len(banned) > 15
    wrong, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if "proto" in path.parts:
            continue
        place = str(path.relative_to(PACKAGE))
        parts = {path.stem} if path.stem != "__init__" else {path.parent.name}
        for name in sorted({*names(ast.parse(path.read_text())), *parts}):
            if breaks(name, banned):
                if (name, place) in excepted:
                    used.add((name, place))
                else:
                    wrong.append(f"{place}: {name}")
    assert not wrong, "see docs/glossary.md for the word that stands instead"
    assert used == excepted, "exceptions that nothing needs"


@pytest.mark.parametrize(
    ("name", "banned", "bad"),
    [
        ("Seat", {"Seat"}, True),
        ("SeatMap", {"Seat"}, False),
        ("SeatMap", {"seat"}, True),
        ("_of_seat", {"seat"}, True),
        ("seats", {"seat"}, False),
        ("NVMLSeat2", {"seat"}, True),
        ("downstream", {"stream"}, False),
    ],
)
def test_words_of_names(name: str, banned: set[str], bad: bool) -> None:
    assert breaks(name, banned) is bad


def test_every_word_is_told_once() -> None:
    told = [row[0] for row in rows("Words")]
    assert len(told) > 30
    assert told == sorted(set(told), key=str.lower)
