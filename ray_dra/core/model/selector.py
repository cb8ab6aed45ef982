"""Ray's label selectors: which nodes a bundle's labels select."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_TERM = re.compile(r"^(!?)in\((.*)\)$")


def labels_match(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Ray's label selectors: `v`, `!v`, `in(a,b)`, `!in(a,b)`; a missing label matches only the negative forms."""
    for key, term in wanted.items():
        negative, values = _selected(term)
        if (labels.get(key) in values) is negative:
            return False
    return True


@lru_cache(maxsize=512)
def _selected(term: str) -> tuple[bool, frozenset[str]]:
    """(whether it is a negative form, its values); remembered, since every node is asked the same."""
    found = _TERM.match(term)
    if found:
        return bool(found[1]), frozenset(v.strip() for v in found[2].split(","))
    return term.startswith("!"), frozenset((term.removeprefix("!"),))
