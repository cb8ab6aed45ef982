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
    """Columns under their headers, as kubectl prints them: three blanks between, the last as long as it is."""
    cells = [list(headers), *([on_one_line(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(headers) - 1)]
    return ["   ".join([*(row[at].ljust(w) for at, w in enumerate(widths)), row[-1]]).rstrip() for row in cells]
