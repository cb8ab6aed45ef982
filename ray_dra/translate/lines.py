"""Lines of plain text for terminals and logs: one line each, so wide at most, tables with headers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence


def on_one_line(text: str) -> str:
    """For a line of a log or a terminal, whatever a program calls its gang."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def several(number: int, what: str) -> str:
    """`1 node`, `2 nodes`, `1,440 nodes`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def shortened(text: str, most: int) -> str:
    """`text` in at most so many columns: its beginning and its end."""
    text = on_one_line(text)
    if len(text) <= most:
        return text
    head = (most - 2) // 2
    return f"{text[:head]}..{text[len(text) - (most - 2 - head) :]}"


def wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """The text in lines of at most `width` columns; one that has no blank to be broken at stays longer."""
    return textwrap.wrap(
        on_one_line(text),
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns under their headers, as kubectl prints them."""
    cells = [headers, *rows]
    widths = widths_of(cells)
    return [aligned(row, widths) for row in cells]


def widths_of(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column but the last, which is as long as it is."""
    return [max(len(on_one_line(row[at]) or "-") for row in rows) for at in range(len(rows[0]) - 1)]


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """A table's row: three blanks between columns, a stroke for an empty cell."""
    cells = [on_one_line(cell) or "-" for cell in row]
    return "   ".join([*(cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=True)), cells[-1]])
