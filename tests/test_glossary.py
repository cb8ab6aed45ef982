"""docs/glossary.md forbids words as names; none of them is one in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_dra"
KEPT = "Words that keep to their files"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the glossary."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    part = re.split(rf"^#+ {heading}$", text, flags=re.MULTILINE)[1]
    part = re.split(r"^#", part, flags=re.MULTILINE)[0]
    table = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def forbidden() -> tuple[set[str], set[str]]:
    """Words, and names that are forbidden as a whole only."""
    cells = [row[0] for row in rows("Names that do not come back")]
    alone = {name for cell in cells for name in re.findall(r"`(\w+)` alone", cell)}
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} - alone, alone


def kept_to_files() -> list[tuple[set[str], list[str]]]:
    return [({*re.findall(r"`(\w+)`", row[0])}, re.findall(r"`([\w/.]+)`", row[1])) for row in rows(KEPT)]


def allowed() -> set[tuple[str, str]]:
    return {(name.strip("`"), path) for name, path, _ in rows("Exceptions")}


def words(name: str) -> list[str]:
    """CamelCase and snake_case, taken apart."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def named() -> Iterator[tuple[str, str]]:
    """Every file of the package, with each name in it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "proto" not in path.parts:
            own = path.stem if path.stem != "__init__" else path.parent.name
            for name in sorted({*names(ast.parse(path.read_text())), own} - {"__slots__"}):
                yield str(path.relative_to(PACKAGE)), name


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
    (banned, alone), kept, excepted = forbidden(), kept_to_files(), allowed()
    assert len(banned) > 15
    assert alone
    wrong, used, needed = [], set(), set()
    for place, name in named():
        bad = breaks(name, banned) or name in alone
        for at, (some, places) in enumerate(kept):
            if breaks(name, some):
                there = {p for p in places if place == p or place.startswith(f"{p}/")}
                needed |= {(at, p) for p in there}
                bad = bad or not there
        if bad and (name, place) in excepted:
            used.add((name, place))
        elif bad:
            wrong.append(f"{place}: {name}")
    assert not wrong, "see docs/glossary.md for the word that stands instead"
    assert used == excepted, "exceptions that nothing needs"
    assert needed == {(at, p) for at, (_, places) in enumerate(kept) for p in places}, "places that have no such name"


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
