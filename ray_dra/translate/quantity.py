"""Kubernetes' quantities, which its objects and our users write alike."""

from __future__ import annotations

import math
import re

_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0} | {s: 1e3**at for at, s in enumerate("kMGTPE", 1)}
_FACTORS = _DECIMAL | {f"{s}i": 1024.0**at for at, s in enumerate("KMGTPE", 1)}
# As Kubernetes' parser has it: one suffix or one exponent, so that 1E is an exa and 1E3 a thousand.
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE]?)|([eE][+-]?[0-9]+))")


def quantity(told: str | int | float) -> float:
    """A Kubernetes quantity as a number. ValueError for what is none, is negative, or has no end."""
    known = isinstance(told, str | int | float) and not isinstance(told, bool)
    found = _QUANTITY.fullmatch(str(told)) if known else None
    if found is None:
        raise ValueError(f"{told!r:.100} is no quantity of Kubernetes")
    number, suffix, exponent = found.groups()
    value = float(number + (exponent or "")) * _FACTORS[suffix or ""]
    if not 0 <= value < math.inf:
        raise ValueError(f"{told!r:.100} is no amount that a node can have")
    return value
