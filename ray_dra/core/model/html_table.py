"""Tables for notebooks, which show what `_repr_html_` returns."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MOST_ROWS = 200


def html_table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, whatever is in them; of many rows the first MOST_ROWS."""
    lines = [f"<table><caption>{escape(caption)}</caption>", _row("th", headers)]
    lines += [_row("td", row) for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append(f'<tr><td colspan="{len(headers)}">and {len(rows) - MOST_ROWS:,} more</td></tr>')
    return "\n".join([*lines, "</table>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
