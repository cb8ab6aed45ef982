"""Lines for terminals: in their width, and without what a terminal would obey."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.translate.lines import on_one_line, shortened, table, wrapped


def test_columns_stand_under_their_headers() -> None:
    rows = [["a", "", "why\nso"], ["a-long-name", "2", ""]]
    assert table(["NAME", "GPUS", "REASON"], rows) == [
        "NAME          GPUS   REASON",
        "a             -      why so",
        "a-long-name   2      -",
    ]
    assert table(["NAME"], []) == ["NAME"]


@given(st.text(max_size=80), st.integers(6, 40))
def test_what_is_shortened_keeps_its_ends(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    assert on_one_line(short) == short
    if len(text) > most:
        assert short[0] == on_one_line(text)[0]
        assert short[-1] == on_one_line(text)[-1]


@given(st.lists(st.text("ab[]|", min_size=1, max_size=9), max_size=30), st.integers(20, 76))
def test_what_is_wrapped_loses_no_word(words: list[str], width: int) -> None:
    lines = wrapped(" ".join(words), width, "    ", "  n ")
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines).split() == (["n", *words] if words else [])
